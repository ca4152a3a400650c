"""What questions of inference and of training share: fields under one name with one meaning, and who divides the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from llm_perf.config.base import Efficiency, Flag, NonNegativeQuantity, PositiveInt, Quantity
from llm_perf.config.parallelism import DSZeRO
from llm_perf.errors import SpecError


@dataclass(frozen=True, slots=True)
class MostInRequest:
    """The largest value that a request to the page's server may have, so that none takes long. Flags have no such limit."""

    value: int


def _stage_number(value: Any) -> int:
    return DSZeRO.of(value).value


Text = Annotated[str, Field(min_length=1)]
Stage = Annotated[int, BeforeValidator(_stage_number)]
RankCount = Annotated[PositiveInt, MostInRequest(4096)]

ModelName = Annotated[
    Text, Field(description="Name, YAML or JSON file, Hugging Face config.json or its folder, or hub id.")
]
GPUsPerNode = Annotated[RankCount | None, Field(description="GPUs per node.")]
HostMemory = Annotated[
    PositiveInt | None, Field(description="GiB of memory of each host, instead of what it usually has.")
]
NetworkRate = Annotated[
    Quantity | None,
    Field(description="GB/s between nodes, per GPU and direction, instead of the host's network cards'."),
]
Nodes = Annotated[RankCount | None, Field(description="Nodes.  [default: 1]")]
TensorRanks = Annotated[RankCount | None, Field(description="Tensor-parallel ranks.")]
Stages = Annotated[RankCount | None, Field(description="Pipeline stages.")]
Replicas = Annotated[RankCount | None, Field(description="Data-parallel replicas.")]
ExpertRanks = Annotated[RankCount, Field(description="Expert-parallel ranks.")]
ShareOfPeak = Annotated[
    Efficiency | None, Field(description="Share of peak FLOP/s, instead of the GPU's table.")
]
ShareOfBandwidth = Annotated[
    Efficiency | None, Field(description="Share of memory bandwidth, instead of the GPU's table.")
]
Price = Annotated[NonNegativeQuantity | None, Field(description="US dollars, instead of the list's.")]
PriceList = Annotated[
    Text | None,
    Field(description="Your own list of prices per GPU-hour (YAML); the bundled one if not given."),
]
ProfileName = Annotated[Text | None, Field(description="Calibrated profile: name, file, or none.")]
LongContext = Annotated[Flag, Field(description="Beyond the model's positions.")]


def replicas(
    sizes: dict[str, int], dp_size: int | None, num_nodes: int | None, num_gpus: int | None
) -> int | None:
    """num_nodes x num_gpus = tp x pp x cp x dp: the replicas that are asked for or left; None where neither is said.

    Args:
        sizes: What divides a replica, by the name that messages have.
        dp_size: What was asked for.
        num_nodes: The same; 1 if not given.
        num_gpus: Per node; unknown if not given.

    Raises:
        SpecError: the sizes that are given do not multiply to the GPUs.
    """
    if num_gpus is None:
        return dp_size
    nodes, fixed = num_nodes or 1, 1
    for size in sizes.values():
        fixed *= size
    gpus = nodes * num_gpus
    found = gpus // fixed if dp_size is None and gpus % fixed == 0 else dp_size
    if found is None or fixed * found != gpus:
        said = " x ".join(f"{name} {size}" for name, size in sizes.items())
        product = (
            f" = {fixed} does not divide that" if found is None else f" x dp_size {found} = {fixed * found}"
        )
        raise SpecError(f"num_nodes {nodes} x num_gpus {num_gpus} = {gpus} GPUs, but {said}{product}")
    return found
