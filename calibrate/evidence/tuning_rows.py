"""Runs of fine-tuning and of memory in training, as two whole tables: each row with the scenario that predicts it.

`measurements/training/finetuning.csv` has speed and peak memory of adapters, full fine-tuning and offloaded optimizers,
`measurements/published_training_b200.csv` step time and allocated peak of Megatron-LM.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, Literal

from calibrate.evidence.published import GPU_ALIASES
from calibrate.evidence.published.cells import Row
from calibrate.evidence.stated import cells_of
from calibrate.evidence.training_runs import (
    TrainingRun,
    framework_of,
    model_of,
    recomputation_of,
    training_scenario_of,
)
from llm_perf.config.base import GIB
from llm_perf.config.loading import get_gpu_config_by_name, get_host_config_by_name, usual_host
from llm_perf.config.parallelism import ParallelismConfig, fewest_nodes
from llm_perf.config.training import TrainingPlan, TrainingScenario
from llm_perf.counts.optimizer import optimizer_by_name
from llm_perf.errors import LLMPerfError, SpecError
from llm_perf.systems.training.base import TrainingMemoryParts
from llm_perf.systems.training.framework import get_framework

Table = Literal["finetuning", "b200"]
_FILES: Final[dict[Table, str]] = {
    "finetuning": "training/finetuning.csv", "b200": "published_training_b200.csv",
}  # fmt: skip
_GB: Final = 1e9
_COLUMNS: Final = dict.fromkeys(
    (
        "framework", "model", "gpu", "gpu_count", "seq_len", "micro_batch", "grad_accum", "global_batch_seqs", "tp", "pp",
        "cp", "ep", "precision", "sharding", "recompute", "cpu_offload", "method", "lora_rank", "base_weight_bits",
        "mem_scope", "host_cpu", "notes", "source_table",
    ),
    "",
)  # fmt: skip

_SLOW_SLOT_GB_PER_S: Final = 3.94
"""The source's words are "older motherboard and slow PCI lanes": taken as a second slot with four lanes of PCIe 3."""
ALPACA_MEAN, ALPACA_LONGEST = 115, 1304
"""Tokens of Alpaca's samples as the source describes them: "mean about 110 to 120", "longest 1304"."""


@dataclass(frozen=True)
class TuningRun:
    """One run: what is predicted of its time, and of its memory where the longest sample decides that.

    Attributes:
        timed: The scenario of a step (of the source's iteration where it counts micro-batches); None where the length of
            sequences is not stated.
        full: The scenario whose memory is the run's peak.
        steps: Steps of ``timed`` in one iteration as the source counts it.
        tokens: Tokens of such an iteration as the source counts them for its rate.
        scope: What the memory's figure counts.
        unit: Bytes of the unit in which memory is printed.
    """

    timed: TrainingScenario | None
    full: TrainingScenario
    steps: float
    tokens: float
    scope: str
    unit: float


@dataclass(frozen=True)
class TuningCase:
    """A row with its run, or with the reason why there is none."""

    row: Mapping[str, str]
    run: TuningRun | None
    reason: str | None

    @property
    def row_id(self) -> str:
        """The row's name in its table."""
        return self.row["row_id"]


@cache
def load_table(name: Table) -> tuple[TuningCase, ...]:
    """All rows of a table that ship."""
    file = resources.files("calibrate") / "measurements" / _FILES[name]
    rows = csv.DictReader(file.read_text("utf-8").splitlines())
    return tuple(_case(row) for row in rows)


def _case(row: Mapping[str, str]) -> TuningCase:
    try:
        return TuningCase(row, tuning_run(row), None)
    except LLMPerfError as error:
        return TuningCase(row, None, str(error))


def is_tuning(row: Mapping[str, str]) -> bool:
    """Whether a row states what only the table of fine-tuning does."""
    return bool(row.get("method") or row.get("lora_rank") or row.get("mem_scope"))


def memory_of(run: TuningRun, parts: TrainingMemoryParts) -> float:
    """What a figure of a run's memory means, in its unit: allocated, reserved, or all that a GPU's driver shows."""
    scope = run.scope
    if "allocated" in scope:
        size = parts.allocated_bytes
    elif "reserved" in scope:
        size = parts.allocator_bytes
    else:
        size = parts.total_bytes
    gpus = run.full.num_gpus if "sum" in scope else 1
    return float(size) * gpus / run.unit


# -- settings of a row ------------------------------------------------------------------------------------------------


def tuning_run(row: Mapping[str, str]) -> TuningRun:
    """The settings of one row.

    Raises:
        SpecError: something that is not modelled or not stated.
    """
    cells = cells_of(_COLUMNS | dict(row))
    if not is_tuning(row):
        return _pretraining(cells)
    framework = _framework(cells)
    lengths = _lengths(cells)
    micro = cells.integer("micro_batch") or _default_micro_batch(cells)
    steps = cells.integer("grad_accum") or 1
    # litgpt counts micro-batches as iterations.
    accumulation = 1 if framework == "litgpt" else steps
    scenarios = [_scenario(cells, framework, length, micro, accumulation) for length in lengths]
    whole = micro * accumulation * scenarios[0].parallelism.dp_size
    unit = GIB if framework == "torchtune" else _GB
    scope = cells.text("mem_scope")
    if framework == "litgpt":
        scope += " (allocated)"  # torch.cuda.max_memory_allocated, as its scripts print
    # A recipe's usual data set has lengths that nobody states.
    unknown = framework == "torchtune" and not cells.text("seq_len").isdigit()
    timed = None if unknown else scenarios[0]
    return TuningRun(timed, scenarios[-1], 1.0, whole * lengths[0], scope, unit)


def _pretraining(cells: Row) -> TuningRun:
    whole = cells.integer("global_batch_seqs")
    gpus, tp, pp = cells.count("gpu_count"), cells.integer("tp") or 1, cells.integer("pp") or 1
    micro = cells.count("micro_batch")
    if whole is None:
        whole = micro * (cells.integer("grad_accum") or 1) * max(gpus // (tp * pp), 1)
    run = TrainingRun(
        framework=cells.required("framework"), model=cells.required("model"), gpu=cells.text("gpu"), num_gpus=gpus,
        seq_len=cells.count("seq_len"), global_batch=whole, micro_batch=micro, tp=tp, pp=pp, ep=cells.integer("ep") or 1,
        precision=cells.text("precision"), sharding=cells.text("sharding"), recompute=cells.text("recompute"),
    )  # fmt: skip
    scenario = training_scenario_of(run)
    return TuningRun(scenario, scenario, 1.0, whole * run.seq_len, "per GPU (allocated)", GIB)


def _framework(cells: Row) -> str:
    """The framework that a row's own name means.

    Raises:
        SpecError: one that is not modelled, or a method of it.
    """
    stated, method = cells.required("framework").lower(), cells.text("method").lower()
    if "ktransformers" in stated or "experts" in cells.text("cpu_offload"):
        raise SpecError("experts that are trained on the CPU (KTransformers) are not modelled")
    if stated.startswith("timm"):
        raise SpecError("a vision model, which no spec describes")
    if "zenflow" in method or "superoffload" in stated:
        raise SpecError("ZenFlow and SuperOffload: the source states no length or no settings of theirs")
    if "second table" in cells.text("notes") and "llama-factory" in stated:
        raise SpecError("the settings of the source's second table are not stated")
    if stated.startswith("transformers"):
        if "full" in method:
            return "deepspeed"
        return "hf_gptq" if cells.integer("base_weight_bits") == 4 else "hf_trainer"
    for start, name in (
        ("litgpt", "litgpt"), ("fsdp_qlora", "fsdp_qlora"), ("llama-factory unsloth", "unsloth"),
        ("llama-factory", "llama_factory"), ("torchtune", "torchtune"), ("deepspeed", "deepspeed"),
    ):  # fmt: skip
        if stated.startswith(start):
            return name
    return framework_of(cells.required("framework"))


def _lengths(cells: Row) -> tuple[int, int]:
    """(tokens of a sample for time, tokens for memory): one number, or Alpaca's mean and longest.

    Raises:
        SpecError: no length is stated.
    """
    text = cells.text("seq_len")
    if text.isdigit():
        return int(text), int(text)
    if "alpaca" in (text + cells.text("source_table")).lower() or "torchtune default" in cells.text("notes"):
        # A batch is padded to its longest sample; lengths are taken to be spread exponentially.
        micro = cells.integer("micro_batch") or _default_micro_batch(cells)
        padded = ALPACA_MEAN * sum(1 / place for place in range(1, micro + 1))
        return round(padded), ALPACA_LONGEST
    raise SpecError("the length of sequences is not stated")


def _default_micro_batch(cells: Row) -> int:
    if "torchtune" in cells.text("framework"):
        return 2  # batch_size of its recipes
    raise SpecError("the micro-batch is not stated")


def _scenario(
    cells: Row, framework_name: str, seq_len: int, micro: int, accumulation: int
) -> TrainingScenario:
    framework = get_framework(framework_name)
    stated_gpu = re.sub(r" \(assumed\)$", "", cells.required("gpu"))
    gpu = get_gpu_config_by_name(GPU_ALIASES.get(stated_gpu, stated_gpu))
    slow = "slow motherboard" in cells.text("notes")
    host = get_host_config_by_name("desktop-gen3") if slow else usual_host(gpu, cells.count("gpu_count"))
    if "no NVLink" in cells.text("notes"):
        gpu = gpu.replace(link=gpu.link.replace(name="none", gb_per_s_per_direction=None, topology="none"))
    if slow:
        host = host.replace(pcie_lanes=4, pcie_gb_per_s=_SLOW_SLOT_GB_PER_S)
    gpus = cells.count("gpu_count")
    tp, pp, cp, ep = (cells.integer(name) or 1 for name in ("tp", "pp", "cp", "ep"))
    if gpus % (tp * pp * cp):
        raise SpecError(f"tp x pp x cp = {tp * pp * cp} does not divide {gpus} GPUs")
    parallelism = ParallelismConfig(
        tp_size=tp, sp_size=tp, pp_size=pp, cp_size=cp, ep_size=ep, dp_size=gpus // (tp * pp * cp)
    )
    own_code = cells.required("model") in _OWN_CODE
    return TrainingScenario(
        model=model_of(cells.required("model")),
        gpu=gpu,
        host=host,
        framework=framework.name,
        plan=TrainingPlan(
            **framework.defaults
            | {"seq_len": seq_len, "micro_batch_size": micro, "gradient_accumulation_steps": accumulation}
            | _recompute(cells, framework_name)
            | _sharding(cells, framework_name)
            | _precision(cells)
            | _method(cells)
            | _said(cells.text("notes"))
            | ({"flash_attn": False} if cells.text("framework") == "LLaMA-Factory HF" else {})
            | ({"logit_bytes": 14.0} if own_code and framework_name == "hf_trainer" else {})
        ),
        parallelism=parallelism,
        num_nodes=fewest_nodes(gpus, host.gpus_per_node),
        allow_long_context=True,
    )


_SAID: Final = (
    (r"paged ?adamw ?8-?bit", {"optimizer": "paged_adam8bit"}),
    (r"(?<!paged)(?<!paged )\badamw ?8-?bit|\b8-?bit adamw?", {"optimizer": "adam8bit"}),
    (r"optimi[sz]er (?:step )?(?:in|into)(?: the)? backward", {"optimizer_in_backward": True}),
    (r"(?<!no )(?<!not )(?<!without )(?:torch\.compile|\bcompiled?\b)(?! off)", {"compile": True}),
    (r"chunked (?:cross.entropy|loss)", {"loss": "chunked"}),
    (r"plain cross.entropy", {"loss": "plain"}),
    (r"activation offload", {"activations_device": "cpu"}),
)
"""Settings that a row's text names, in the words of their makers."""


def _said(notes: str) -> dict[str, Any]:
    text = notes.lower()
    found: dict[str, Any] = {}
    for words, fields in _SAID:
        if re.search(words, text):
            found |= fields
    return found


_OWN_CODE: Final = frozenset({"Qwen/Qwen-1_8B", "Qwen/Qwen-7B", "Qwen/Qwen-14B", "Qwen/Qwen-72B"})
"""Models whose own code (trust_remote_code) has 16-bit logits, which autocast widens for the softmax only."""


def _recompute(cells: Row, framework: str) -> dict[str, Any]:
    stated = cells.text("recompute")
    if framework == "litgpt" and cells.text("sharding"):
        return {"activation_recomputation": 4}  # its FSDP strategy checkpoints every block
    return {"activation_recomputation": recomputation_of(stated)} if stated else {}


def _sharding(cells: Row, framework: str) -> dict[str, Any]:
    stated, off = cells.text("sharding").lower(), cells.text("cpu_offload").lower()
    found: dict[str, Any] = {}
    if stage := re.search(r"zero-(\d)", stated):
        found["ds_zero"] = int(stage[1])
    elif stated == "full_shard":
        found["ds_zero"] = 3
    elif stated == "ddp" or (not stated and framework != "deepspeed"):
        found["ds_zero"] = 0
    if framework == "hf_gptq":
        found["ds_zero"] = 2
    if framework == "deepspeed" and cells.text("framework").startswith("transformers"):
        found["reduce_bucket_size"] = 2e8  # of the configuration that its source ships
    if off == "optimizer":
        found["optimizer_device"] = "cpu"
    elif off in ("true", "weights+activations"):
        found |= {"weights_device": "cpu", "optimizer_device": "cpu"}
        found |= {"activations_device": "cpu"} if "activations" in off else {}
    return found


def _precision(cells: Row) -> dict[str, Any]:
    precision = cells.text("precision").lower().split("-")[0].split(" ")[0]
    return {"precision": precision} if precision in ("bf16", "fp16", "fp32") else {}


def _method(cells: Row) -> dict[str, Any]:
    method = cells.text("method").lower()
    rank = cells.integer("lora_rank")
    if not rank:
        named = re.search(r"(?:bnb|ao) ([48])-bit adamw", method)
        return {"optimizer": optimizer_by_name(f"adam{named[1]}bit").name} if named else {}
    found: dict[str, Any] = {"lora_rank": rank}
    bits = cells.integer("base_weight_bits")
    if bits is not None and bits < 16:
        found["base_weight_bits"] = bits
    if "nf4-dq" in method:
        found["base_double_quant"] = True
    if "(emb)" in method:
        found["lora_ends"] = True
    return found
