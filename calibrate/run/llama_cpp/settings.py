"""What a run of llama.cpp is asked to do, checked before anything is built or written."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from calibrate.run.llama_cpp.models import AUTO
from calibrate.run.settings import DEFAULT_OFFLOAD_DIR
from llm_perf.config.base import NonNegativeInt, PositiveInt, Spec
from llm_perf.config.formats import GGUF_MIXTURES, format_name
from llm_perf.report.benchmark_log import get_filename

FORMATS = ("fp16", *(name for name in GGUF_MIXTURES if name != "mxfp4_gguf"))
"""What a file of random weights can be stored in: as it is written, or as llama-quantize makes it."""


class LlamaCppSettings(Spec):
    """The settings of one run, under the names of the flags of ``llm-perf calibrate run --system llama_cpp``.

    Attributes:
        model_name: One of the sample shapes, a bundled model, a ``config.json`` or its folder (random weights of these
            shapes are made), or a ``.gguf`` file, which is run as it is.
        weight_format: Of random weights; None is q4_k_m. A file has its own.
        threads: Of llama.cpp; None is all cores that this process may use.
        prompt_len: Prompt tokens.
        gen_len: Tokens to generate; the first comes with the prompt.
        ubatch_size: Prompt tokens per pass (llama.cpp's own name).
        loops: Timed repeats.
        warmup: 0 leaves llama-bench's own warm-up out.
        offload_dir: Folder in which the file of random weights is made, and removed at the end.
        output_file: Log file; "auto" names it after the configuration.
        runs_dir: Folder for the JSON of each run.
        verbose: 0 nothing, 1 and 2 the result.
        seed: Of the random weights.
        profile: Calibrated profile of the prediction beside the run.
        allow_long_context: Beyond the model's positions.
        allow_concurrent: Measure although another run measures on this machine.
    """

    _label: ClassVar[str | None] = ""

    model_name: str = Field(default=AUTO, min_length=1)
    weight_format: str | None = None
    threads: PositiveInt | None = None
    prompt_len: PositiveInt = 512
    gen_len: PositiveInt = 32
    ubatch_size: PositiveInt = 512
    loops: PositiveInt = 5
    warmup: NonNegativeInt = 1
    offload_dir: str = Field(default=DEFAULT_OFFLOAD_DIR, min_length=1)
    output_file: str = Field(default="auto", min_length=1)
    runs_dir: str = Field(default="runs", min_length=1)
    verbose: NonNegativeInt = 1
    seed: NonNegativeInt = 0
    profile: str | None = None
    allow_long_context: bool = False
    allow_concurrent: bool = False

    @field_validator("weight_format")
    @classmethod
    def _known_format(cls, value: str | None) -> str | None:
        return None if value in (None, "auto") else format_name(str(value), FORMATS, "weight_format")

    @property
    def batch_size(self) -> int:
        """llama-bench runs one sequence."""
        return 1

    def stem(self, model: str, weights: str, threads: int) -> str:
        """Name of the configuration: of the log, and part of the run file's name."""
        named = get_filename(model, 1, self.prompt_len, self.gen_len, True, False, 1, 1, False, False)
        return f"llama_cpp-{named.removeprefix('ds-')}-{weights}-t{threads}"
