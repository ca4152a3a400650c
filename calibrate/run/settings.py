"""What a real run is asked to do, checked before anything heavy is imported."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from llm_perf.config.base import NonNegativeInt, PositiveInt, Spec

DEFAULT_OFFLOAD_DIR = "~/.cache/llm-perf/offload"


class RunSettings(Spec):
    """The settings of one run, under the names of the flags of ``llm-perf calibrate --run``.

    The first eighteen are seed 001's, in its order. ``batch_size`` is the total over all ranks.

    Attributes:
        model_name: A bundled model, a Hugging Face ``config.json`` or folder, or a hub id; "auto" takes one that fits
            the device.
        batch_size: Sequences over all ranks.
        prompt_len: Prompt tokens per sequence.
        gen_len: Tokens to generate per sequence.
        cpu_offload: Weights in CPU memory.
        disk_offload: Weights on NVMe.
        offload_dir: Folder for swap files and dummy checkpoints.
        num_nodes: Machines.
        num_gpus_per_node: Ranks on each machine.
        dummy: Random weights instead of real ones.
        output_file: Log file; "auto" names it after the configuration.
        verbose: 0 nothing, 1 metrics, 2 metrics and the generated text.
        kv_offload: KV cache in CPU memory.
        quant_bits: 4 or 8 quantises weights, 16 does not.
        quant_group_size: Weights that share a scale and a minimum.
        pin_kv_cache: The offloaded cache is page-locked (CUDA only).
        async_kv_offload: Its copies overlap with computing (CUDA only).
        loops: Timed repeats.
        warmup: Repeats before the timed ones, thrown away.
        pin_memory: Offloaded weights are page-locked (CUDA only).
        use_gds: NVMe is read straight into GPU memory (GPUDirect Storage, CUDA only).
        dtype: Number format; "auto" is fp16, or bf16 where the device refuses fp16.
        device: "auto" is CUDA where there is one.
        system: "zero_inference", or "transformers" for a plain run of the same model with no DeepSpeed.
        dummy_on_disk: Dummy weights through a checkpoint (True), straight into place (False), or the checkpoint where
            the disk has room for it (None). Plain runs take the checkpoint then: tokens are compared with theirs.
        allow_long_context: Beyond the model's positions.
        allow_concurrent: Measure although another run measures on this machine.
        runs_dir: Folder for the JSON of each run.
        seed: Seed of dummy weights and of random prompts.
        profile: Calibrated profile of the prediction beside the run.
    """

    _positional: ClassVar[tuple[str, ...]] = (
        "model_name", "batch_size", "prompt_len", "gen_len", "cpu_offload", "disk_offload", "offload_dir",
        "num_nodes", "num_gpus_per_node", "dummy", "output_file", "verbose", "kv_offload", "quant_bits",
        "quant_group_size", "pin_kv_cache", "async_kv_offload", "loops",
    )  # fmt: skip
    _label: ClassVar[str | None] = ""

    model_name: str = Field(min_length=1)
    batch_size: PositiveInt = 1
    prompt_len: PositiveInt = 512
    gen_len: PositiveInt = 32
    cpu_offload: bool = False
    disk_offload: bool = False
    offload_dir: str = Field(default=DEFAULT_OFFLOAD_DIR, min_length=1)
    num_nodes: PositiveInt = 1
    num_gpus_per_node: PositiveInt = 1
    dummy: bool = False
    output_file: str = Field(default="auto", min_length=1)
    verbose: Literal[0, 1, 2] = 1
    kv_offload: bool = False
    quant_bits: Literal[4, 8, 16] = 16
    quant_group_size: PositiveInt = 64
    pin_kv_cache: bool = True
    async_kv_offload: bool = False
    loops: PositiveInt = 3
    warmup: NonNegativeInt = 1
    pin_memory: bool = True
    use_gds: bool = False
    dtype: Literal["auto", "fp16", "bf16", "fp32"] = "auto"
    device: Literal["auto", "cuda", "cpu"] = "auto"
    system: Literal["zero_inference", "transformers"] = "zero_inference"
    dummy_on_disk: bool | None = None
    allow_long_context: bool = False
    allow_concurrent: bool = False
    runs_dir: str = Field(default="runs", min_length=1)
    seed: NonNegativeInt = 0
    profile: str | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> RunSettings:
        if self.cpu_offload and self.disk_offload:
            raise ValueError("cpu_offload and disk_offload exclude each other: weights go to one of the two")
        if self.use_gds and not self.disk_offload:
            raise ValueError("use_gds reads weights from NVMe: it needs disk_offload")
        if self.batch_size % self.ranks:
            raise ValueError(
                f"batch_size {self.batch_size} is the total over all ranks and must be a multiple of {self.ranks}"
            )
        if self.system == "transformers" and (
            self.cpu_offload or self.disk_offload or self.quant_bits < 16 or self.ranks > 1
        ):
            raise ValueError(
                "system transformers runs plain on one device: no offload, no quantisation, one rank"
            )
        return self

    @property
    def ranks(self) -> int:
        """Processes of the run."""
        return self.num_nodes * self.num_gpus_per_node

    @property
    def weight_quantize(self) -> bool:
        """Whether weights are stored in fewer than 16 bits."""
        return self.quant_bits < 16
