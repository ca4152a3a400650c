"""How far predictions were off where nothing had been fitted: ``left_out/*.yaml``, which ``make accuracy`` writes.

Every constant of a system was refitted without the published runs of one GPU, and of one model, in turn; the runs that
were left out were predicted by constants that never saw them. The files, one per system, hold the widths of 90 % intervals
that those residuals give, by accuracy class, with what the runs cover: outside of that nothing is known.
"""

from functools import cache
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from llm_perf.config import files
from llm_perf.config.base import PositiveInt, Spec
from llm_perf.config.calibration import ENOUGH, HalfWidth, Range
from llm_perf.config.model import ModelConfig
from llm_perf.errors import UnknownNameError
from llm_perf.systems.registry import family_of

FOLDER: Final = "left_out"
ANY: Final = "any"
"""Stands for all systems of a class together."""

RESIDENT: Final = "resident"
"""Stands for the classes whose tensors are all on the GPU, where a GPU is unknown: one class alone knows too few GPUs."""

_ON_THE_GPU: Final = frozenset({"resident-1gpu", "resident-tp", "resident-pp", "quantised"})

Count = Annotated[int, Field(ge=0, strict=True)]
LeaveOut = Literal["gpu", "model", "family", "system"]
ModelKind = Literal["dense", "mixture of experts", "state-space", "encoder"]


class LeftOutWidths(Spec):
    """Half-widths of 90 % intervals as log ratios, from ``rows`` runs in ``groups`` groups that were left out in turn.

    None where too few runs state that phase. Of ``tested`` runs, intervals as wide as the groups other than their own say
    held ``held``: what was measured of the promised 90 %.
    """

    groups: PositiveInt
    rows: PositiveInt
    held: Count = 0
    tested: Count = 0
    prefill: HalfWidth | None = None
    decode: HalfWidth | None = None
    total: HalfWidth | None = None

    @property
    def coverage(self) -> float | None:
        """Share of the tested runs that was held; None where too few could be tested to say."""
        return self.held / self.tested if self.tested >= ENOUGH else None


class Evidence(Spec):
    """What published runs say of one system (for training: framework) in one accuracy class.

    Attributes:
        system: Its name, or `ANY`: what all systems of the class have in common.
        accuracy_class: The class.
        vendor: Who made the GPUs.
        machines: GPUs that the runs were made on, each with its hosts.
        kinds: Kinds of models.
        weight_bits: Widths of weights.
        sizes: What the runs cover: ``model_gib``, ``num_gpus``, and lengths and batch of an inference or ``seq_len``.
        options: What runs did beside computing in 16 bits on one node, training jobs beside training all weights on the GPUs.
        left_out: Widths by what was left out of the fits. ``system``: nothing was fitted, but the stack is not named.
    """

    system: str
    accuracy_class: str
    vendor: str
    machines: dict[str, tuple[str, ...]]
    kinds: tuple[ModelKind, ...]
    weight_bits: tuple[PositiveInt, ...]
    sizes: dict[str, Range]
    options: tuple[str, ...] = ()
    left_out: dict[LeaveOut, LeftOutWidths]


class EvidenceFile(Spec):
    """All entries of a system."""

    entries: tuple[Evidence, ...] = Field(min_length=1)


@cache
def entries_of(system: str) -> tuple[Evidence, ...]:
    """All that published runs say of a system (or `ANY`); nothing where no run is of it.

    Raises:
        SpecError: the file is malformed.
    """
    file = files.package_folder("llm_perf.analysis") / FOLDER / f"{system}.yaml"
    if not file.is_file():
        return ()
    text = file.read_text("utf-8")
    return files.build(EvidenceFile, files.parse_mapping(text, file.name), text, file.name).entries


@cache
def published_widths(name: str) -> dict[str, Any]:
    """A file of half-widths that stands beside this module.

    Raises:
        SpecError: the file is malformed.
    """
    return files.parse_mapping((files.package_folder("llm_perf.analysis") / name).read_text("utf-8"), name)


def evidence_of(system: str, accuracy_class: str, vendor: str) -> Evidence | None:
    """What published runs on GPUs of a maker say of a system in a class; None where there is none.

    Raises:
        SpecError: the file is malformed.
    """
    return next(
        (x for x in entries_of(system) if (x.accuracy_class, x.vendor) == (accuracy_class, vendor)), None
    )


def evidence_sizes(system: str, accuracy_class: str) -> dict[str, Range]:
    """What a system's published runs in a class cover, on GPUs of any maker; nothing where there are none."""
    found: dict[str, Range] = {}
    for entry in entries_of(system):
        for name, size in entry.sizes.items() if entry.accuracy_class == accuracy_class else ():
            held = found.get(name, size)
            found[name] = Range(low=min(held.low, size.low), high=max(held.high, size.high))
    return found


def pool_of(accuracy_class: str, leave_out: str) -> str:
    """The class of which all systems stand in for one with too few groups."""
    return RESIDENT if leave_out == "gpu" and accuracy_class in _ON_THE_GPU else accuracy_class


def vendors_of(system: str, accuracy_class: str) -> tuple[str, ...]:
    """Makers of the GPUs on which a system's published runs in a class were made."""
    return tuple(entry.vendor for entry in entries_of(system) if entry.accuracy_class == accuracy_class)


def accuracy_class(
    system: str, gpu_share: float, nvme_share: float, weight_bits: int, num_gpus: int, pp_size: int
) -> str | None:
    """The accuracy class of an inference: where its tensors are, then how wide its weights are, then on how many GPUs.

    Args:
        system: Name of the system.
        gpu_share: The least share on the GPU of weights and of KV cache.
        nvme_share: The largest share of either on NVMe.
        weight_bits: Width of the weights.
        num_gpus: GPUs in all.
        pp_size: Pipeline stages.

    Returns:
        The class; None for a system whose runs are in none, such as one whose clients the classes do not know.
    """
    try:
        declared = family_of(system).accuracy_class
    except UnknownNameError:  # a published run of what nothing here predicts
        declared = None
    if declared is not None:
        return None if declared == "none" else declared
    if nvme_share > 0:
        return "offload-nvme"
    if gpu_share < 1:
        return "offload-cpu"
    if weight_bits < 16:
        return "quantised"
    if pp_size > 1:
        return "resident-pp"
    return "resident-tp" if num_gpus > 1 else "resident-1gpu"


def kind_of(model: ModelConfig) -> ModelKind:
    """What kind of layers a model has, as far as predictions may be off for one kind and not for another."""
    if model.encoder:
        return "encoder"
    if any(group.attention.recurrent for group in model.layer_groups):
        return "state-space"
    if any(group.mlp.routed_experts for group in model.layer_groups):
        return "mixture of experts"
    return "dense"
