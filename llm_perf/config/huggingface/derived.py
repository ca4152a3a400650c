"""Rows whose config class computes keys from others, and what such rows share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llm_perf.config.huggingface.family import FULL, LINEAR, Family
from llm_perf.config.huggingface.reader import Config

_NEW_NAMES = {"mamba": LINEAR, "attention": FULL}
"""What older files call a layer type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived(Family):
    """A row whose config class computes some keys from others: ``derive`` gives them, and they count as the config's own."""

    derive: Callable[[Config], Mapping[str, Any]]

    def build(self, c: Config) -> dict[str, Any]:
        """The fields of a ModelConfig."""
        fields = {**c.fields, **self.derive(c)}
        return Family.build(self, Config(c.family, fields, c.defaults, c.path, c.read))


def listed_types(c: Config, name: str) -> list[str] | None:
    """Layer types as a config lists them, under today's names."""
    types = c.items(name, str)
    return None if types is None else [_NEW_NAMES.get(each, each) for each in types]


def attention_at(c: Config, where: Callable[[int], bool]) -> dict[str, Any]:
    """Attention in some layers, recurrent ones elsewhere."""
    return {"layer_types": [FULL if where(layer) else LINEAR for layer in range(c.layers)]}


def given_or(c: Config, name: str, otherwise: Callable[[], int]) -> int:
    """A number that may be written as auto, which stands for one that follows from others."""
    return otherwise() if c.plain(name) in ("auto", None) else c.size(name)


def head_apart(c: Config) -> bool:
    """These classes have a head of their own whatever the config says, so a config that says otherwise is doubtful."""
    if c.flag("tie_word_embeddings"):
        raise c.fault("tie_word_embeddings", True, "false: this class does not share its token table")
    return False
