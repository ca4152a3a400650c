"""ParallelismConfig and the two enumerations of seed 002."""

from __future__ import annotations

from enum import Enum
from functools import total_ordering
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, model_validator

from llm_perf.config.base import PositiveInt, Spec
from llm_perf.errors import SpecError


@total_ordering
class DSZeRO(Enum):
    """DeepSpeed ZeRO stage: what is sharded over the data-parallel ranks (arXiv 1910.02054)."""

    NONE = 0
    STAGE_1 = 1
    STAGE_2 = 2
    STAGE_3 = 3

    def __lt__(self, other: object) -> bool:
        return self.value < other.value if isinstance(other, DSZeRO) else NotImplemented

    @classmethod
    def of(cls, value: Any) -> DSZeRO:
        """Return the stage named by an int 0-3 or a member.

        Raises:
            SpecError: for anything else.
        """
        return cls(_member(cls, value, "ds_zero"))


@total_ordering
class ActivationRecomputation(Enum):
    """What of a layer is computed again in the backward pass (arXiv 2205.05198), least to most."""

    NONE = 0
    ATTN_COMPUTE = 1
    ATTN = 2
    NORM_ATTN_NORM = 3
    FULL = 4

    def __lt__(self, other: object) -> bool:
        return self.value < other.value if isinstance(other, ActivationRecomputation) else NotImplemented

    @classmethod
    def of(cls, value: Any) -> ActivationRecomputation:
        """Return the level named by an int 0-4 or a member.

        Raises:
            SpecError: for anything else.
        """
        return cls(_member(cls, value, "activation_recomputation"))


def _member(kind: Any, value: Any, field: str) -> Any:
    if isinstance(value, kind):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value in [member.value for member in kind]:
        return kind(value)
    accepted = ", ".join(str(member.value) for member in kind)
    raise SpecError(f"{field} must be one of {accepted} or a {kind.__name__}, got {value!r}")


Stage = Annotated[DSZeRO, BeforeValidator(DSZeRO.of)]


class ParallelismConfig(Spec):
    """Ranks per kind of parallelism; tp x pp x dp GPUs in all, experts spread over ranks of the dp x tp grid.

    ``sp_size`` defaults to ``tp_size`` and is 1 or ``tp_size`` (Megatron sequence parallelism, arXiv 2205.05198).
    """

    _label: ClassVar[str | None] = ""  # messages name the size alone
    _positional: ClassVar[tuple[str, ...]] = ("tp_size", "pp_size", "dp_size", "ep_size", "sp_size")

    tp_size: PositiveInt = 1
    pp_size: PositiveInt = 1
    dp_size: PositiveInt = 1
    ep_size: PositiveInt = 1
    sp_size: PositiveInt = 1

    @model_validator(mode="before")
    @classmethod
    def _sp_follows_tp(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("sp_size") is None:
            data = {**data, "sp_size": data.get("tp_size", 1)}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> ParallelismConfig:
        if self.sp_size not in (1, self.tp_size):
            raise ValueError(f"sp_size {self.sp_size} must be 1 or equal to tp_size {self.tp_size}")
        if (self.dp_size * self.tp_size) % self.ep_size:
            raise ValueError(
                f"ep_size {self.ep_size} must divide dp_size x tp_size = {self.dp_size * self.tp_size}: "
                "experts are spread over these ranks"
            )
        return self

    @property
    def num_gpus(self) -> int:
        """GPUs of the whole deployment."""
        return self.tp_size * self.pp_size * self.dp_size
