"""Frameworks by name: the constants of each, and the attention kernels that it uses."""

from __future__ import annotations

from functools import cache
from typing import Literal, cast

from pydantic import Field

from llm_perf.config import files
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.names import normalise, resolve
from llm_perf.config.parallelism import ParallelismConfig
from llm_perf.config.training import Graphs, LossKind, OffloadOverlap, TrainingScenario
from llm_perf.errors import SpecError, UnknownNameError
from llm_perf.systems.constants import ConstantsFile, overridden
from llm_perf.systems.devices import RunsOn, check_runs
from llm_perf.systems.families import find

_FOLDER = files.package_folder("llm_perf.systems.training")
FRAMEWORKS = tuple(
    sorted(entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))
)
"""Each is a YAML file of constants in this folder."""


_FULL_SHARDING = 3
_DIVISIONS = ("tp", "pp", "cp", "ep")


class Framework(ConstantsFile):
    """The constants of a framework and version.

    Attributes:
        attention: fused attention kernels that it may use, best first.
        divisions: ways of dividing a model that it has beside data-parallel replicas; None: those of what it extends.
        zero_stages: ZeRO stages (3: full sharding) that it has; None: those of what it extends, all if that says nothing.
        offload_overlaps: ways in which an update on the CPU goes on beside the GPU's work.
        graphs: what it can launch as CUDA graphs; None: as what it extends.
        defaults: fields of a training plan that this framework sets where nobody says otherwise.
        stage_3_defaults: those that differ where ZeRO's third stage shares the weights too.
        tensor_defaults: those that differ where tensor-parallel ranks divide a model.
        dense_tensor_defaults: those that differ where they divide a model without experts.
        runs_on: accelerators that it runs on; None: those of what it extends.
        pipeline_stage: the stage that sharing more than that amounts to beside a pipeline; None: that of what it extends.
        selective: what its users mean by selective recomputation; None: what those of the one that it extends do.
    """

    attention: tuple[str, ...] = ()
    divisions: tuple[Literal["tp", "pp", "cp", "ep"], ...] | None = None
    zero_stages: tuple[int, ...] | None = None
    offload_overlaps: tuple[OffloadOverlap, ...] = ()
    graphs: tuple[Graphs, ...] | None = None
    defaults: dict[str, bool | int | float | str] = Field(default_factory=dict)
    stage_3_defaults: dict[str, bool | int | float | str] = Field(default_factory=dict)
    tensor_defaults: dict[str, bool | int | float | str] = Field(default_factory=dict)
    dense_tensor_defaults: dict[str, bool | int | float | str] = Field(default_factory=dict)
    pipeline_stage: int | None = None
    selective: dict[str, bool | int | float | str] | None = None
    runs_on: RunsOn | None = None

    def check_divisions(self, parallelism: ParallelismConfig) -> None:
        """Make sure that it can divide a model so.

        Raises:
            SpecError: it cannot, with what it can.
        """
        known = self.divisions or ()
        for name in _DIVISIONS:
            size = getattr(parallelism, f"{name}_size")
            if size > 1 and name not in known:
                has = ", ".join(f"{one}_size" for one in ("dp", *known))
                raise SpecError(
                    f"{name}_size {size}: framework {self.name} does not divide a model so; it has {has}"
                )

    def check_device(self, gpu: GPUConfig) -> None:
        """Make sure that it runs on an accelerator.

        Raises:
            SpecError: it does not, with what does.
        """
        check_runs(f"framework {self.name}", self.runs_on, gpu, lambda: _running_on(gpu))

    def check_stage(self, stage: int) -> None:
        """Make sure that it shares the state of training so.

        Raises:
            SpecError: it does not, with what it has.
        """
        if self.zero_stages is not None and stage not in self.zero_stages:
            has = " and ".join(map(str, self.zero_stages))
            raise SpecError(
                f"ds_zero {stage}: framework {self.name} does not share its state so; it has stage {has}"
            )

    def stage_beside(self, stage: int, pp_size: int) -> int:
        """The stage that sharing so much comes to: beside a pipeline some frameworks keep weights and gradients whole."""
        return stage if pp_size == 1 or self.pipeline_stage is None else min(stage, self.pipeline_stage)

    def check_overlap(self, asked: str) -> None:
        """Make sure that it has a way of offloading.

        Raises:
            SpecError: it has not.
        """
        if asked != "none" and asked not in self.offload_overlaps:
            raise SpecError(f"offload_overlap {asked}: framework {self.name} has no such way; deepspeed has")

    def check_graphs(self, asked: str) -> None:
        """Make sure that it can launch so much as CUDA graphs.

        Raises:
            SpecError: it cannot, with what it can.
        """
        known = ("none", *(self.graphs or ()))
        if asked not in known:
            own = "launches no CUDA graphs" if len(known) == 1 else f"takes {', '.join(known)}"
            raise SpecError(f"cuda_graphs {asked}: framework {self.name} {own}; megatron does")

    def stages_among(self, asked: tuple[int, ...]) -> tuple[int, ...]:
        """Those of some ZeRO stages that it has, or all it has if it has none of them."""
        if self.zero_stages is None:
            return asked
        return tuple(stage for stage in asked if stage in self.zero_stages) or self.zero_stages

    @property
    def loss(self) -> LossKind:
        """How it computes the loss unless told otherwise."""
        return cast(LossKind, self.defaults.get("loss", "vocab-parallel"))

    def defaults_at(
        self, stage: int, tp_size: int = 1, dense: bool = False
    ) -> dict[str, bool | int | float | str]:
        """Fields that it sets at a ZeRO stage, with so many tensor-parallel ranks, of a model without experts or with."""
        found = self.defaults | (self.stage_3_defaults if stage == _FULL_SHARDING else {})
        if tp_size > 1:
            found |= self.tensor_defaults | (self.dense_tensor_defaults if dense else {})
        return found

    def selected(self) -> dict[str, bool | int | float | str]:
        """Fields of a plan that selective recomputation means: the core of attention, where nobody says otherwise."""
        return {"activation_recomputation": 1} if self.selective is None else self.selective


def own_framework(name: str) -> Framework:
    """What a framework's file says itself.

    Raises:
        SpecError: there is none of that exact name, or the file is malformed.
    """
    if name not in FRAMEWORKS:
        raise SpecError(f"there is no framework {name!r}; there are {', '.join(FRAMEWORKS)}")
    file = _FOLDER / f"{name}.yaml"
    text = file.read_text("utf-8")
    return files.build(Framework, files.parse_mapping(text, file.name), text, file.name)


@cache
def load_framework(name: str) -> Framework:
    """A framework's file, what it extends included.

    Raises:
        SpecError: the file is malformed.
    """
    own = own_framework(name)
    if own.extends is None:
        return own
    parent = load_framework(own.extends)
    return own.extended(
        parent,
        attention=own.attention or parent.attention,
        divisions=parent.divisions if own.divisions is None else own.divisions,
        zero_stages=parent.zero_stages if own.zero_stages is None else own.zero_stages,
        offload_overlaps=own.offload_overlaps or parent.offload_overlaps,
        graphs=parent.graphs if own.graphs is None else own.graphs,
        defaults=parent.defaults | own.defaults,
        stage_3_defaults=parent.stage_3_defaults | own.stage_3_defaults,
        tensor_defaults=parent.tensor_defaults | own.tensor_defaults,
        pipeline_stage=parent.pipeline_stage if own.pipeline_stage is None else own.pipeline_stage,
        dense_tensor_defaults=parent.dense_tensor_defaults | own.dense_tensor_defaults,
        selective=parent.selective if own.selective is None else own.selective,
        runs_on=parent.runs_on if own.runs_on is None else own.runs_on,
    )


def _running_on(gpu: GPUConfig) -> list[str]:
    """Frameworks that run on an accelerator, in alphabetical order."""
    return [name for name in FRAMEWORKS if (rule := load_framework(name).runs_on) and rule.takes(gpu)]


@cache
def _aliases() -> dict[str, str]:
    return {normalise(alias): name for name in FRAMEWORKS for alias in load_framework(name).aliases}


@cache
def get_framework(name: str) -> Framework:
    """A framework by name or alias.

    Raises:
        SpecError: unknown; the nearest names are listed, or of a system that generates it is said that it does not train.
    """
    if name in FRAMEWORKS:
        return load_framework(name)
    try:
        return load_framework(resolve("framework", name, FRAMEWORKS, _aliases()))
    except UnknownNameError as error:
        try:
            generates, _ = find(name)
        except SpecError:
            raise error from None
        instead = (
            f"{generates} is a system that generates (llm-perf infer --system {generates}); to train, give a framework such "
            "as fsdp, hf_trainer or megatron (llm-perf systems list)"
        )
        raise UnknownNameError("framework", name, FRAMEWORKS, instead) from None


def framework_constants(scenario: TrainingScenario, framework: Framework) -> dict[str, float]:
    """The framework's constants by name, those of the scenario's profile in place of the file's."""
    return overridden(framework, scenario.constants, scenario.host.name, scenario.fits)
