"""ParallelismConfig and the two enumerations of seed 002."""

from enum import Enum
from functools import total_ordering
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from llm_perf.config.base import PositiveFloat, PositiveInt, ServingOption, Spec
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
    def of(cls, value: Any) -> "DSZeRO":
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
    def of(cls, value: Any) -> "ActivationRecomputation":
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
    names = ", ".join(member.name.lower() for member in kind)
    raise SpecError(f"{field} must be one of {accepted} ({names}), got {value!r}")


Stage = Annotated[DSZeRO, BeforeValidator(DSZeRO.of)]

LARGEST_IMBALANCE = 1000.0
"""A rank cannot do more than all of a layer's experts: no published mixture has more ranks than this."""


class ParallelismConfig(Spec):
    """Ranks per kind of parallelism; tp x cp x pp x dp GPUs in all, experts spread over ranks of the dp x tp grid.

    ``sp_size`` defaults to ``tp_size`` and is 1 or ``tp_size`` (Megatron sequence parallelism, arXiv 2205.05198).
    ``cp_size`` ranks share the tokens of each sequence (ring attention, arXiv 2310.01889). ``expert_imbalance`` is the
    load of the busiest expert-parallel rank over the mean: 1 is even routing.
    """

    _label: ClassVar[str | None] = ""  # messages name the size alone
    _positional: ClassVar[tuple[str, ...]] = ("tp_size", "pp_size", "dp_size", "ep_size", "sp_size")

    tp_size: PositiveInt = 1
    pp_size: PositiveInt = 1
    dp_size: PositiveInt = 1
    ep_size: PositiveInt = 1
    sp_size: Annotated[PositiveInt, ServingOption] = 1
    cp_size: Annotated[PositiveInt, ServingOption] = 1
    expert_imbalance: Annotated[PositiveFloat, Field(ge=1, le=LARGEST_IMBALANCE), ServingOption] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _sp_follows_tp(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("sp_size") is None:
            data = {**data, "sp_size": data.get("tp_size", 1)}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> "ParallelismConfig":
        if self.sp_size not in (1, self.tp_size):
            possible = "1" if self.tp_size == 1 else f"1 or {self.tp_size}"
            raise ValueError(
                f"sp_size {self.sp_size} must be 1 or equal to tp_size {self.tp_size}: sequence parallelism shares "
                f"activations over the tensor-parallel ranks; possible: {possible}"
            )
        if (self.dp_size * self.tp_size) % self.ep_size:
            raise ValueError(
                f"ep_size {self.ep_size} must divide dp_size x tp_size = {self.dp_size * self.tp_size}: "
                f"experts are spread over these ranks; possible: {divisors(self.dp_size * self.tp_size)}"
            )
        if self.expert_imbalance > 1 and self.ep_size == 1:
            raise ValueError(
                f"expert_imbalance {self.expert_imbalance:g} needs experts spread over ranks: give ep_size above 1"
            )
        return self

    @property
    def num_gpus(self) -> int:
        """GPUs of the whole deployment."""
        return self.replica_size * self.dp_size

    @property
    def replica_size(self) -> int:
        """GPUs that hold the model once."""
        return self.tp_size * self.cp_size * self.pp_size


_LARGEST_LISTED = 4096


def divisors(number: int) -> str:
    """The sizes that divide a number, for messages: of a huge one those that somebody may have."""
    parts = ", ".join(str(part) for part in range(1, min(number, _LARGEST_LISTED) + 1) if number % part == 0)
    return f"{parts} and larger ones" if number > _LARGEST_LISTED else parts


def fewest_nodes(num_gpus: int, places: int) -> int:
    """The fewest nodes of ``places`` GPUs each that share ``num_gpus`` evenly."""
    return num_gpus // next(own for own in range(min(places, num_gpus), 0, -1) if num_gpus % own == 0)


def nodes_of(
    num_gpus: int, host: str, places: int, num_nodes: int | None, num_gpus_per_node: int | None
) -> int:
    """The nodes that ``num_gpus`` take: as given, else the fewest of this host that share them evenly.

    Raises:
        SpecError: a node would hold more GPUs than the host has ``places`` for.
    """
    if num_nodes is None and num_gpus_per_node is None:
        return fewest_nodes(num_gpus, places)
    nodes = num_nodes or 1
    if num_gpus / nodes > places:
        raise SpecError(
            f"{num_gpus // nodes} GPUs per node, but host {host} has places for {places}: give more --num-nodes "
            "or another --host (a file with gpus_per_node says of any machine how many are in it)"
        )
    return nodes
