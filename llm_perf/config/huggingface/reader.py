"""The fields of a config.json, each checked when it is read; what was read is known afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_perf.errors import SpecError

LARGEST_SIZE = 10**12
_MOST_LAYERS = 10_000
_LONG_LIST = 1000

# The same fact under the names that families give it.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embed", "n_embd", "d_model")
HEADS = ("num_attention_heads", "n_head", "n_heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
FFN = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
TOP_K = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token")


class FieldError(SpecError):
    """A fault of one field; ``location`` is its path in the file."""

    def __init__(self, location: tuple[str, ...], message: str) -> None:
        self.location = location
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Config:
    """The fields of a config.json over the defaults of its family, each checked when it is read.

    Several names are alternatives; the first that is there counts. A field that is null has no value, as in
    transformers; only an absent one has its default.
    """

    family: str
    fields: Mapping[str, Any]
    defaults: Mapping[str, Any]
    path: tuple[str, ...] = ()
    read: set[str] = field(default_factory=set)
    """Paths of the keys that were asked for, those of nested mappings included."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What the config calls a key that a row asks for by another name."""

    def sub(self, name: str, **defaults: Any) -> Config:
        """The fields of a nested mapping."""
        self._note(name)
        fields = self.fields.get(name)
        if not isinstance(fields, dict):
            raise self.fault(name, fields, "a mapping")
        return Config(self.family, fields, defaults, (*self.path, name), self.read)

    def renamed(self, names: Mapping[str, str], defaults: Mapping[str, Any]) -> Config:
        """The same fields, asked for by other names; what is read of either is known to both."""
        return Config(self.family, self.fields, defaults, self.path, self.read, names)

    def size(self, *names: str) -> int:
        """A positive number that must be there."""
        value = self.optional(*names)
        if value is None:
            wanted = " or ".join(repr(self.names.get(name, name)) for name in names)
            raise FieldError(self.path, f"field {wanted} is required for model_type {self.family!r}")
        return value

    def optional(self, *names: str) -> int | None:
        """A positive number, or None."""
        value = self.count(*names)
        if value == 0:
            raise self.fault(self._present(names), value, "a positive whole number")
        return value

    def count(self, *names: str) -> int | None:
        """A number that may be 0, or None."""
        name = self._present(names)
        value = self._value(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_SIZE:
            raise self.fault(name, value, "a positive whole number")
        return value

    def flag(self, name: str, otherwise: bool = False) -> bool:
        """A truth value; null is false."""
        name = self.names.get(name, name)
        value = self._value(name) if name in self.fields or name in self.defaults else otherwise
        if value is not None and not isinstance(value, bool):
            raise self.fault(name, value, "true or false")
        return bool(value)

    def items(self, name: str, kind: type) -> list[Any] | None:
        """A list with elements of one type, or None."""
        value = self._value(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(item) is kind for item in value):
            raise self.fault(name, value, f"a list of {kind.__name__}")
        return value

    def fault(self, name: str, value: object, accepted: str) -> FieldError:
        """The error about one field's value."""
        name = self.names.get(name, name)
        text = f"{len(value)} entries" if isinstance(value, list) and len(value) > _LONG_LIST else repr(value)
        shown = text if len(text) <= 60 else text[:57] + "..."
        return FieldError(
            (*self.path, name), f"{'.'.join((*self.path, name))} = {shown}: expected {accepted}"
        )

    def _present(self, names: tuple[str, ...]) -> str:
        names = tuple(self.names.get(name, name) for name in names)
        for name in names:
            self._note(name)
        return next(
            (name for known in (self.fields, self.defaults) for name in names if name in known), names[0]
        )

    def text(self, name: str) -> str | None:
        """A word, or None."""
        value = self._value(name)
        if value is not None and not isinstance(value, str):
            raise self.fault(name, value, "text")
        return value

    def plain(self, name: str) -> Any:
        """A value as it stands, for a field of a spec that checks it; None where it is absent."""
        return self._value(name)

    def _note(self, name: str) -> None:
        self.read.add(".".join((*self.path, name)))

    def _value(self, name: str) -> Any:
        name = self.names.get(name, name)
        self._note(name)
        return self.fields[name] if name in self.fields else self.defaults.get(name)

    # -- facts that every family has ---------------------------------------------------------------------

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return self.size(*HIDDEN)

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.size(*HEADS)

    @property
    def kv_heads(self) -> int:
        """Key and value heads; as many as query heads where the config has none."""
        return self.optional(*KV_HEADS) or self.heads

    @property
    def head_dim(self) -> int:
        """Elements of a head, given or the hidden size over the heads."""
        given = self.optional("head_dim")
        if given is not None:
            return given
        if self.hidden % self.heads:
            raise self.fault("hidden_size", self.hidden, f"a multiple of the {self.heads} heads")
        return self.hidden // self.heads

    @property
    def experts(self) -> int:
        """Routed experts."""
        return self.size(*EXPERTS)

    @property
    def experts_per_token(self) -> int:
        """Routed experts that one token uses."""
        return self.size(*TOP_K)

    @property
    def layers(self) -> int:
        """Layers."""
        layers = self.size(*LAYERS)
        if layers > _MOST_LAYERS:
            raise self.fault(self._present(LAYERS), layers, f"at most {_MOST_LAYERS} layers")
        return layers

    @property
    def context(self) -> int | None:
        """Positions, or None."""
        return self.optional(*CONTEXT)

    @property
    def window(self) -> int | None:
        """The sliding window, where there is one. One as wide as the positions is how a config says that there is none."""
        window = self.count("sliding_window") if self.flag("use_sliding_window", otherwise=True) else None
        return window if window and window != self.context else None
