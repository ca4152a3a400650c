"""What differs between two answers, and which of the listed departures accounts for it."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import yaml

from llm_perf.errors import LLMPerfError
from tests.golden.oracle import Refused
from tests.golden.oracle_training import TrainingOracle
from tests.golden.reference import FOLDER, SUMMARIES, Case, ask, equal

REFUSED = "refused"
CHOSEN = "batch_size_per_gpu"


@dataclass(frozen=True)
class Departure:
    """One entry of departures.yaml; ``totals`` are the keys of its groups."""

    id: str
    when: str
    names: tuple[str, ...]
    totals: frozenset[str]

    def changes(self, name: str) -> bool:
        """Whether the entry says that it changes a method or key."""
        return name in self.totals or any(fnmatchcase(name, pattern) for pattern in self.names)

    def applies(self, case: Case, method: str, arguments: dict[str, Any]) -> bool:
        """Whether the entry's condition holds for a call."""
        return bool(eval(self.when, {"__builtins__": {}}, conditions(case, method, arguments)))


@lru_cache(maxsize=1)
def departures() -> dict[str, Departure]:
    """The list of departures by id."""
    document = yaml.safe_load((FOLDER / "departures.yaml").read_text("utf-8"))
    groups = document["groups"]
    return {
        entry["id"]: Departure(
            entry["id"],
            entry["when"],
            tuple(entry["names"]),
            frozenset(key for group in entry.get("groups", ()) for key in groups[group]),
        )
        for entry in document["departures"]
    }


def conditions(case: Case, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The names that a departure's ``when`` may use."""
    stages = ("NONE", "STAGE_1", "STAGE_2", "STAGE_3")
    stage = arguments.get("ds_zero", 0)
    return {
        "inference": method == "inference",
        "summary": method in SUMMARIES,
        "steps": method == "training",
        "tokens": arguments.get("total_num_tokens"),
        "accumulation": arguments.get("gradient_accumulation_steps"),
        "global_batch": arguments.get("global_batch_size"),
        "level": arguments.get("activation_recomputation", 0),
        "training": method == "training" or arguments.get("is_inference") is False,
        "gated_argument": arguments.get("gated_linear_units", False),
        "kv_cache": arguments.get("use_kv_cache", False),
        "batch": 1 if arguments.get("batch_size_per_gpu") is None else arguments["batch_size_per_gpu"],
        "seq": arguments.get("seq_len") or case.model["max_seq_len"] or 1,
        "gen": arguments.get("num_tokens_to_generate", 0),
        "stage": stages.index(stage) if isinstance(stage, str) else stage,
        "layernorm_bytes": arguments.get("layernorm_dtype_bytes", arguments.get("dtype_bytes", 4)),
        "master_bytes": arguments.get("master_weights_dtype_bytes", 4),
        "other_op_bytes": arguments.get("other_op_bytes"),
        "layers": case.model["num_layers"],
        "heads": case.model["n_head"],
        "kv_heads": case.model["num_key_value_heads"],
        "hidden": case.model["hidden_dim"],
        "ffn": case.model["ffn_embed_dim"],
        "experts": case.model["moe_num_experts"],
        "gated": case.model["mlp_gated_linear_units"],
        "positions": case.model["max_seq_len"],
        "tp": case.parallelism.get("tp_size", 1),
        "pp": case.parallelism.get("pp_size", 1),
        "dp": case.parallelism.get("dp_size", 1),
        "ep": case.parallelism.get("ep_size", 1),
        "compute_bits": max(case.dtype["weight_bits"], case.dtype["activation_bits"]),
        "achieved_tflops": case.constructor.get("achieved_tflops"),
        "flops_efficiency": case.constructor.get("flops_efficiency"),
        "intra_efficiency": case.constructor.get("intra_node_memory_efficiency", 1.0),
    }


def oracle(case: Case, method: str, arguments: dict[str, Any], faults: frozenset[str]) -> Any:
    """The oracle's answer; the name of an error where it refuses."""
    try:
        return getattr(TrainingOracle(case, faults), method)(**arguments)
    except Refused as refusal:
        return str(refusal)


def llm_perf(case: Case, method: str, arguments: dict[str, Any], **extra: Any) -> Any:
    """llm-perf's answer; the name of an error where it raises."""
    try:
        return ask(case.analysis(), method, arguments, **extra)
    except LLMPerfError as error:
        return type(error).__name__


def llm_analysis(case: Case, value: Any) -> Any:
    """The stored answer; the name of an error where there is none."""
    return value if case.error is None else case.error.partition(":")[0]


def differences(method: str, left: Any, right: Any) -> set[str]:
    """The method, or the summary keys, whose values differ; "refused" where only one is an error."""
    if isinstance(left, str) or isinstance(right, str):
        return set() if isinstance(left, str) and isinstance(right, str) else {REFUSED}
    if method == "training" and left[CHOSEN] != right[CHOSEN]:
        return {CHOSEN}  # where the largest batch that fits is another, everything else follows from it
    if method in SUMMARIES:
        return {key for key in left.keys() & right.keys() if not equal(left[key], right[key])}
    return set() if equal(left, right) else {method}


def unaccounted(case: Case, method: str, arguments: dict[str, Any], names: set[str]) -> set[str]:
    """Those of the names that no departure which applies says to change."""
    applying = [entry for entry in departures().values() if entry.applies(case, method, arguments)]
    return {name for name in names if not any(entry.changes(name) for entry in applying)}
