"""What a real training run is asked to do, checked before anything heavy is imported."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from calibrate.run.settings import DEFAULT_OFFLOAD_DIR
from llm_perf.config.base import NonNegativeInt, PositiveInt, Spec
from llm_perf.config.parallelism import DSZeRO


def _stage_number(value: object) -> int:
    return DSZeRO.of(value).value


class TrainRunSettings(Spec):
    """The settings of one training run, under the names of the flags of ``llm-perf calibrate --run --train``.

    Weights and data are always random: time and memory do not depend on them.

    Attributes:
        model_name: A bundled model, a Hugging Face ``config.json`` or folder, or a hub id.
        framework: deepspeed; fsdp (FSDP2, torch.distributed.fsdp.fully_shard); torch (a loop of torch alone, one rank).
        ds_zero: ZeRO stage of deepspeed.
        lora_rank: Rank of peft's adapters on every matrix but the head, the only thing that is trained; 0: the weights are.
        micro_batch_size: Sequences of one rank per pass.
        gradient_accumulation_steps: Passes per step of the optimizer.
        seq_len: Tokens per sequence.
        steps: Timed steps of the optimizer.
        warmup: Steps before them, thrown away.
        optimizer_offload: Optimizer state and update on the CPU (ZeRO-Offload; stages 1 to 3).
        recompute: Each layer keeps its input only and is computed again in the backward pass.
        num_gpus_per_node: Ranks; all on this machine.
        dtype: Number format of weights and activations; "auto" is bf16, or fp16 where the device refuses that.
        device: "auto" is CUDA where there is one.
        allow_long_context: Beyond the model's positions.
        clock: "cpu" measures with one thread per rank and counts CPU seconds, which a busy machine changes little.
        allow_concurrent: Measure although another run measures on this machine.
        runs_dir: Folder for the JSON of each run.
        verbose: 0 nothing, 1 the metrics.
        seed: Of weights and data.
    """

    _positional: ClassVar[tuple[str, ...]] = ("model_name",)
    _label: ClassVar[str | None] = ""
    offload_dir: ClassVar[str] = DEFAULT_OFFLOAD_DIR  # no file is swapped: where the disk is described

    model_name: str = Field(min_length=1)
    framework: Literal["deepspeed", "fsdp", "torch"] = "deepspeed"
    ds_zero: Annotated[int, BeforeValidator(_stage_number)] = 2
    lora_rank: NonNegativeInt = 0
    micro_batch_size: PositiveInt = 1
    gradient_accumulation_steps: PositiveInt = 1
    seq_len: PositiveInt = 128
    steps: PositiveInt = 5
    warmup: NonNegativeInt = 1
    optimizer_offload: bool = False
    recompute: bool = False
    num_gpus_per_node: PositiveInt = 1
    dtype: Literal["auto", "fp16", "bf16", "fp32"] = "auto"
    device: Literal["auto", "cuda", "cpu"] = "auto"
    allow_long_context: bool = False
    clock: Literal["wall", "cpu"] = "wall"
    allow_concurrent: bool = False
    runs_dir: str = Field(default="runs", min_length=1)
    verbose: Literal[0, 1, 2] = 1
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _goes_together(self) -> TrainRunSettings:
        if self.optimizer_offload and self.ds_zero == 0:
            raise ValueError("optimizer_offload is ZeRO-Offload: give ds_zero 1, 2 or 3")
        if self.framework != "deepspeed" and self.optimizer_offload:
            raise ValueError(f"optimizer_offload is DeepSpeed's: not with framework {self.framework}")
        if self.framework == "torch" and self.num_gpus_per_node > 1:
            raise ValueError(
                "framework torch trains with one rank: deepspeed or fsdp share the work of several"
            )
        return self

    @property
    def stage(self) -> int:
        """ZeRO stage that the run amounts to: FSDP shares everything, torch alone nothing."""
        return {"deepspeed": self.ds_zero, "fsdp": 3, "torch": 0}[self.framework]

    @property
    def updates_partition(self) -> bool:
        """Whether the optimizer updates a rank's partition as one tensor, as under ZeRO, and not parameter by parameter."""
        return self.framework == "deepspeed" and self.ds_zero > 0

    @property
    def ranks(self) -> int:
        """Processes of the run."""
        return self.num_gpus_per_node

    @property
    def tokens_per_step(self) -> int:
        """Tokens of all ranks that one step of the optimizer learns from."""
        return self.micro_batch_size * self.gradient_accumulation_steps * self.ranks * self.seq_len

    @property
    def stem(self) -> str:
        """Name of the configuration, part of the run file's name."""
        how = f"zero{self.ds_zero}" if self.framework == "deepspeed" else self.framework
        how += f"-lora{self.lora_rank}" if self.lora_rank else ""
        offload = "-cpu-optimizer" if self.optimizer_offload else ""
        recompute = "-recompute" if self.recompute else ""
        return (
            f"train-{self.model_name.replace('/', '_').strip('._') or 'model'}-{how}-mb{self.micro_batch_size}"
            f"-ga{self.gradient_accumulation_steps}-s{self.seq_len}-n{self.ranks}{offload}{recompute}"
        )
