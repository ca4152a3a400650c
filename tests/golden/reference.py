"""The stored results of llm-analysis, as cases that both llm-perf and the oracle can be asked about."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from llm_perf.analysis import (
    ActivationRecomputation,
    DSZeRO,
    DtypeConfig,
    GPUConfig,
    LLMAnalysis,
    ModelConfig,
    ParallelismConfig,
)

FOLDER = Path(__file__).parent
INFERENCE_DEFAULTS = {
    "batch_size_per_gpu": 1,
    "seq_len": 512,
    "num_tokens_to_generate": 32,
    "use_kv_cache": True,
    "ds_zero": 0,
    "layernorm_dtype_bytes": 2,
    "kv_cache_dtype_bytes": None,
    "cost_per_gpu_hour": None,
}
TRAINING_DEFAULTS = {
    "batch_size_per_gpu": None,
    "gradient_accumulation_steps": None,
    "global_batch_size": None,
    "seq_len": None,
    "total_num_tokens": None,
    "activation_recomputation": 0,
    "ds_zero": 0,
    "layernorm_dtype_bytes": 4,
    "master_weights_dtype_bytes": 4,
    "other_op_bytes": None,
    "flash_attn": True,
    "softmax_dropout": False,
    "mlp_activation_quant_bits": None,
    "mlp_1linear_quant_bits": None,
    "mlp_gelu_input_quant_bits": None,
    "mlp_2linear_quant_bits": None,
    "mlp_recompute_gelu": False,
}
SUMMARIES = ("inference", "training")
"""Methods whose answer is a summary."""


@dataclass(frozen=True)
class Case:
    """Inputs of one analysis and what llm-analysis gave.

    ``calls`` are (method, arguments, value); a summary is the value of ``inference`` or ``training``. ``error`` is set
    where there is none.
    """

    id: str
    model: dict[str, Any]
    gpu: dict[str, Any]
    dtype: dict[str, Any]
    parallelism: dict[str, int]
    constructor: dict[str, float]
    calls: tuple[tuple[str, dict[str, Any], Any], ...] = ()
    error: str | None = field(default=None)

    def analysis(self) -> LLMAnalysis:
        """The same question to llm-perf. A peak of 0, llm-analysis' way to say that there is none, is left out."""
        gpu = {key: value for key, value in self.gpu.items() if value != 0}
        return LLMAnalysis(
            ModelConfig(**self.model),
            GPUConfig(**gpu),
            DtypeConfig(**self.dtype),
            ParallelismConfig(**self.parallelism),
            **self.constructor,
        )


def ask(analysis: LLMAnalysis, method: str, arguments: dict[str, Any], **extra: Any) -> Any:
    """Call a method with arguments as they are stored, where members of enumerations are names."""
    converted = dict(arguments)
    if isinstance(converted.get("ds_zero"), str):
        converted["ds_zero"] = DSZeRO[converted["ds_zero"]]
    if isinstance(converted.get("activation_recomputation"), str):
        converted["activation_recomputation"] = ActivationRecomputation[converted["activation_recomputation"]]
    return getattr(analysis, method)(**converted, **extra)


@cache
def load(name: str) -> tuple[Case, ...]:
    """The cases of one file: ``infer``, ``methods`` or ``train``, or one of these with ``extra_`` before it."""
    document = json.loads((FOLDER / f"llm_analysis_{name}.json").read_text("utf-8"))
    method, defaults = (
        ("training", TRAINING_DEFAULTS) if "train" in name else ("inference", INFERENCE_DEFAULTS)
    )
    return tuple(_case(document, row, method, defaults) for row in document["cases"])


def _case(document: dict[str, Any], row: dict[str, Any], method: str, defaults: dict[str, Any]) -> Case:
    calls = [tuple(call) for call in row.get("results", ())]
    if "results" not in row:
        calls = [(method, defaults | row["call"], row.get("summary"))]
    return Case(
        id=row["id"],
        model={"name": row["model"], **document["models"][row["model"]]},
        gpu={"name": row["gpu"], **document["gpus"][row["gpu"]]},
        dtype={"name": row["dtype"], **document["dtypes"][row["dtype"]]},
        parallelism=row["parallelism"],
        constructor=row["constructor"],
        calls=tuple(calls),
        error=row.get("error"),
    )


def inference_cases() -> tuple[Case, ...]:
    """Every case whose one call is `inference`."""
    return load("infer") + load("extra_infer")


def training_cases() -> tuple[Case, ...]:
    """Every case whose one call is `training`."""
    return load("train") + load("extra_train")


def method_cases() -> tuple[Case, ...]:
    """Every case that calls single methods."""
    return load("methods") + load("extra_methods")


def equal(left: Any, right: Any, tolerance: float = 1e-9) -> bool:
    """Whether two results are the same to a relative tolerance; keys that only one has are no difference."""
    if isinstance(left, dict) and isinstance(right, dict):
        return all(equal(left[key], right[key], tolerance) for key in left.keys() & right.keys())
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(equal, left, right, [tolerance] * len(left)))
    if isinstance(left, bool) or not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
        return left == right
    return math.isclose(left, right, rel_tol=tolerance)
