"""DtypeConfig: how wide weights, activations, embeddings and the KV cache are."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from llm_perf.config.base import PositiveInt, Spec, _plain_number
from llm_perf.config.formats import WeightFormats
from llm_perf.errors import SpecError

BITS = (4, 8, 16, 32)
QUANT_META_BITS = 32
"""Bits of scale and minimum per quantisation group: two 16-bit values (DeepSpeed ZeRO-Inference and FlexGen)."""


def _known_bits(value: Any) -> Any:
    if isinstance(_plain_number(value), int) and not isinstance(value, bool) and value not in BITS:
        raise ValueError(f"{value} bits are not supported; use one of {', '.join(map(str, BITS))}")
    return value


Bits = Annotated[int, BeforeValidator(_known_bits), Field(strict=True)]


class DtypeConfig(Spec):
    """Bits per element.

    ``quant_group_size`` elements of a quantised weight share a scale and a minimum, ``kv_group_size`` elements of
    a quantised cache likewise.
    ``kv_bits`` defaults to the activation width. Weights narrower than activations are weight-only
    quantised: products run at the activation's width. ``quant_group_size`` None means no scales are stored.
    ``formats`` is the number format of each matrix of a model: where it is given it decides what weights take, and
    ``weight_bits`` is the nominal width of most matrices. ``kv_stored_bits`` is the width of a cache format with its scales,
    ``kv_format`` its name where that is known: a GPU may have instructions for one format of 8 bits and not for another.
    ``state_bits`` is the width of recurrent states, whatever the cache's is. ``origin`` says where the format of the
    weights is from.
    """

    _positional: ClassVar[tuple[str, ...]] = ("name", "weight_bits", "activation_bits", "embedding_bits")

    name: str = ""
    weight_bits: Bits = 16
    activation_bits: Bits = 16
    embedding_bits: Bits = 16
    kv_bits: Bits = 16
    quant_group_size: PositiveInt | None = None
    kv_group_size: PositiveInt | None = None
    formats: WeightFormats | None = None
    kv_stored_bits: Annotated[float, Field(gt=0, le=64)] | None = None
    kv_format: str = ""
    state_bits: Literal[16, 32] = 16
    origin: str = ""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if data.get("kv_bits") is None:
            data["kv_bits"] = data.get("activation_bits", 16)
        if not data.get("name"):
            widths = [data.get(f"{part}_bits", 16) for part in ("weight", "activation", "embedding")]
            data["name"] = "w{}a{}e{}".format(*widths)
        return data

    @property
    def stored_weight_bits(self) -> float:
        """Bits per weight with its share of scale and minimum."""
        return stored_bits(self.weight_bits, self.quant_group_size)

    @property
    def stored_embedding_bits(self) -> float:
        """Bits per element of the token table and the head with their share of scale and minimum."""
        return stored_bits(self.embedding_bits, self.quant_group_size)

    @property
    def stored_kv_bits(self) -> float:
        """Bits per cache element with its share of scale and minimum."""
        return self.kv_stored_bits or stored_bits(self.kv_bits, self.kv_group_size)

    @property
    def compute_bits(self) -> int:
        """Width at which matrix products run."""
        return max(self.weight_bits, self.activation_bits)


def stored_bits(bits: int, group_size: int | None) -> float:
    """Bits per stored element: ``bits`` plus the scale and minimum that ``group_size`` elements share."""
    return bits + (QUANT_META_BITS / group_size if group_size and bits < 16 else 0.0)


_DTYPE_NAME = re.compile(
    r"w(?P<weight_bits>\d+)a(?P<activation_bits>\d+)e(?P<embedding_bits>\d+)(?:kv(?P<kv_bits>\d+))?"
)


def get_dtype_config_by_name(name: str) -> DtypeConfig:
    """A DtypeConfig from its name, such as ``w16a16e16`` or ``w4a16e16``; ``kv8`` may follow for the cache.

    Raises:
        SpecError: the name is not of that form.
    """
    match = _DTYPE_NAME.fullmatch(name.strip().lower()) if isinstance(name, str) else None
    if match is None:
        widths = ", ".join(map(str, BITS))
        raise SpecError(
            f"dtype {name!r} is not like w16a16e16 (weight, activation, embedding bits of {widths})"
        )
    bits: dict[str, Any] = {part: int(width) for part, width in match.groupdict().items() if width}
    return DtypeConfig(name=name.strip().lower(), **bits)
