"""Defaults of config classes, as `bench/class_defaults.py` writes them from transformers: of rows that name none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("class_defaults.json")


@lru_cache(maxsize=1)
def _file() -> dict[str, dict[str, dict[str, Any]]]:
    written: dict[str, dict[str, dict[str, Any]]] = json.loads(_FILE.read_text("utf-8"))
    return written


def unread_defaults(model_type: str) -> Mapping[str, Any]:
    """Keys of a config class that its row does not read, with their defaults: at these nothing is left out."""
    return _file()["unread"].get(model_type, {})


def class_defaults(model_type: str) -> Mapping[str, Any]:
    """The keys of one config class that decide shapes, with their defaults; those that follow from others have none."""
    return _file()["models"].get(model_type, {})
