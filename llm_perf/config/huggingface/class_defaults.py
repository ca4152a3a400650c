"""Defaults of config classes, as `bench/class_defaults.py` writes them from transformers: of rows that name none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("class_defaults.json")


@lru_cache(maxsize=1)
def _all() -> dict[str, dict[str, Any]]:
    written: dict[str, dict[str, Any]] = json.loads(_FILE.read_text("utf-8"))["models"]
    return written


def class_defaults(model_type: str) -> Mapping[str, Any]:
    """The keys of one config class that decide shapes, with their defaults; those that follow from others have none."""
    return _all().get(model_type, {})
