"""Released config.json files field by field (tests/data/model_configs.yaml)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_DATA = yaml.safe_load((Path(__file__).parents[1] / "data" / "model_configs.yaml").read_text("utf-8"))

RELEASED: dict[str, dict[str, Any]] = _DATA["released"]
"""Those that bundled models are held against, one per family."""
COUNTED: dict[str, tuple[dict[str, Any], int, float]] = {
    name: (one["config"], one["parameters"], one["within"]) for name, one in _DATA["counted"].items()
}
"""Those of models that are not bundled, their parameters, and within what share of these a count has to be."""
BESIDE_THEIR_WEIGHTS: dict[str, tuple[dict[str, Any], int]] = {
    name: (one["config"], one["parameters"]) for name, one in _DATA["beside_their_weights"].items()
}
"""Those that leave out what is a default, and the elements of their checkpoints."""
