"""Files of DeepSpeed, Megatron-LM and torchtune in this project's names."""

from __future__ import annotations

import re
from typing import Any, Final

from llm_perf.analysis.trainer_files.keys import Keys
from llm_perf.counts.optimizer import optimizer_by_name
from llm_perf.errors import SpecError

FULL_RECOMPUTATION: Final = 4
SELECTIVE: Final = 1


def optimizer_of(keys: Keys, name: str) -> str | None:
    """The optimizer that a key names, with or without its module.

    Raises:
        SpecError: one that is not known.
    """
    stated = keys.text(name)
    if stated is None:
        return None
    plain = stated.rpartition(".")[2].lower()
    plain = re.sub(r"^(onebit|zerooneadam)", "adam", plain)
    plain = {"lion_32bit": "lion", "lion_8bit": "lion8bit", "adamw_torch_8bit": "adam8bit", "adamw_torch_4bit": "adam4bit",
             "adamw_apex_fused": "adamw", "fusedadam": "adam", "deepspeedcpuadam": "adamw", "paged_lion_8bit": "lion8bit",
             "adamw8bit": "adam8bit", "adamw4bit": "adam4bit"}.get(plain, plain)  # fmt: skip
    try:
        return optimizer_by_name(plain).name
    except SpecError as error:
        raise SpecError(f"{keys.where}: {name}: {error}") from None


# -- DeepSpeed ----------------------------------------------------------------------------------------------------------


def deepspeed(keys: Keys) -> dict[str, Any]:
    """A DeepSpeed configuration (JSON)."""
    zero = keys.part("zero_optimization")
    found: dict[str, Any] = {
        "framework": "deepspeed",
        "ds_zero": zero.integer("stage") or 0,
        "optimizer_device": _device(zero.part("offload_optimizer")),
        "weights_device": _device(zero.part("offload_param")),
        "reduce_bucket_size": zero.number("reduce_bucket_size"),
        "micro_batch_size": keys.integer("train_micro_batch_size_per_gpu"),
        "gradient_accumulation_steps": keys.integer("gradient_accumulation_steps"),
        "global_batch_size": keys.integer("train_batch_size"),
        "optimizer": optimizer_of(keys.part("optimizer"), "type"),
        "precision": precision_of(keys.part("bf16").flag("enabled"), keys.part("fp16").flag("enabled"), None),
    }
    if found["ds_zero"] not in (0, 1, 2, 3):
        raise zero.wrong("stage", "0, 1, 2 or 3")
    found |= _overlap(zero)
    if keys.part("activation_checkpointing").flag("cpu_checkpointing"):
        found["activations_device"] = "cpu"
    return found


def _overlap(zero: Keys) -> dict[str, Any]:
    """How the CPU's update goes on beside the GPU's work, with ZenFlow's and SuperOffload's own settings."""
    offloaded = zero.part("offload_optimizer")
    if offloaded.flag("super_offload"):
        return {"offload_overlap": "superoffload", "superoffload_ratio": offloaded.number("ratio")}
    if "zenflow" not in zero:
        return {}
    zenflow = zero.part("zenflow")
    if not zenflow.flag("overlap_step"):
        # The CPU's update is waited for like any other; what else stands there is said not to be used.
        return {"offload_overlap": "none"}
    found: dict[str, Any] = {
        "offload_overlap": "zenflow",
        "zenflow_topk_ratio": zenflow.number("topk_ratio"),
    }
    if zenflow.raw("update_interval") not in (None, "auto"):
        found["zenflow_update_interval"] = zenflow.integer("update_interval")
    return found


def _device(part: Keys) -> str | None:
    device = part.text("device")
    return None if device in (None, "none") else device


def precision_of(bf16: bool | None, fp16: bool | None, fp32: bool | None) -> str | None:
    """The precision of flags."""
    if bf16:
        return "bf16"
    if fp16:
        return "fp16"
    return "fp32" if fp32 else None


# -- Megatron-LM ----------------------------------------------------------------------------------------------------------

_SIZES: Final = {
    "tensor_model_parallel_size": "tp_size",
    "pipeline_model_parallel_size": "pp_size",
    "context_parallel_size": "cp_size",
    "expert_model_parallel_size": "ep_size",
    "micro_batch_size": "micro_batch_size",
    "global_batch_size": "global_batch_size",
    "seq_length": "seq_len",
    "num_virtual_stages_per_pipeline_rank": "virtual_stages",
}
_SAME_NAME: Final = ("overlap_grad_reduce", "overlap_param_gather", "tp_comm_overlap")


def megatron(keys: Keys) -> dict[str, Any]:
    """Arguments of Megatron-LM; the model's shape is not read: the model is named beside the file."""
    found: dict[str, Any] = {"framework": "megatron"}
    for theirs, ours in _SIZES.items():
        found[ours] = keys.integer(theirs)
    if (found["tp_size"] or 1) > 1 and not keys.flag("sequence_parallel"):
        found["sp_size"] = 1
    keys.flag("sequence_parallel")
    found["ds_zero"] = 1 if keys.flag("use_distributed_optimizer") else 0
    fp8 = keys.text("fp8_format") or keys.text("fp8_recipe")
    wide = precision_of(keys.flag("bf16"), keys.flag("fp16"), False)
    found["precision"] = "fp8" if fp8 else wide or "fp32"
    found |= _recomputed(keys)
    found["optimizer"] = optimizer_of(keys, "optimizer")
    if keys.flag("optimizer_cpu_offload"):
        found |= {"optimizer_device": "cpu", "ds_zero": max(found["ds_zero"], 1)}
    for name, ours in (("attention_dropout", "softmax_dropout"), ("hidden_dropout", "dropout")):
        share = keys.number(name)
        found[ours] = None if share is None else share > 0
    per_stage, layers = keys.integer("num_layers_per_virtual_pipeline_stage"), keys.integer("num_layers")
    if per_stage and layers and found["virtual_stages"] is None:
        found["virtual_stages"] = max(layers // ((found["pp_size"] or 1) * per_stage), 1)
    steps, whole, length = keys.integer("train_iters"), found["global_batch_size"], found["seq_len"]
    if steps and whole and length:
        found["total_num_tokens"] = steps * whole * length
    gpus = keys.integer("nproc_per_node")
    found |= {"num_gpus": gpus, "num_nodes": keys.integer("nnodes") if gpus else None}
    from llm_perf.analysis.training_request import TrainingInputs

    for name in _SAME_NAME:
        if name in TrainingInputs.model_fields:
            found[name] = keys.flag(name)
    return found


def _recomputed(keys: Keys) -> dict[str, Any]:
    granularity, layers = keys.text("recompute_granularity"), keys.integer("recompute_num_layers")
    method = keys.text("recompute_method")
    if granularity == "full":
        return {
            "activation_recomputation": FULL_RECOMPUTATION,
            "recompute_layers": layers if method == "block" else None,
        }
    if granularity == "selective" or keys.flag("recompute_activations"):
        return {"activation_recomputation": SELECTIVE}
    if granularity is not None:
        raise keys.wrong("recompute_granularity", "full or selective")
    return {}


# -- torchtune --------------------------------------------------------------------------------------------------------------

_TUNE_MODEL: Final = re.compile(r"^(?:q?lora_)?(llama|qwen|mistral|gemma|phi)(\d?)(?:_(\d))?_(.+)$")
_TUNE_QLORA: Final = re.compile(r"\.qlora_")


def torchtune(keys: Keys) -> dict[str, Any]:
    """A torchtune recipe's configuration (YAML)."""
    model, loss = keys.part("model"), keys.part("loss")
    component = model.text("_component_") or ""
    rank = model.integer("lora_rank")
    found: dict[str, Any] = {
        "framework": "torchtune",
        "model": tune_model(component),
        "seq_len": keys.part("tokenizer").integer("max_seq_len"),
        "micro_batch_size": keys.integer("batch_size"),
        "gradient_accumulation_steps": keys.integer("gradient_accumulation_steps"),
        "activation_recomputation": FULL_RECOMPUTATION if keys.flag("enable_activation_checkpointing") else 0,
        "activations_device": "cpu" if keys.flag("enable_activation_offloading") else None,
        "optimizer": optimizer_of(keys.part("optimizer"), "_component_"),
        "optimizer_in_backward": keys.flag("optimizer_in_bwd"),
        "compile": keys.flag("compile"),
        "precision": keys.text("dtype"),
        "lora_rank": rank,
    }
    if found["optimizer_in_backward"]:
        found["gradient_accumulation_steps"] = None
    if rank:
        found["lora_targets"] = _tune_targets(model)
        found["adapter"] = "dora" if model.flag("use_dora") else None
        if _TUNE_QLORA.search(component) or model.flag("quantize_base"):
            found["base_weight_bits"] = 4
    if keys.flag("fsdp_cpu_offload"):
        found |= {"weights_device": "cpu", "optimizer_device": "cpu", "ds_zero": 3}
    named = (loss.text("_component_") or "").rpartition(".")[2].lower()
    if named:
        found["loss"] = "chunked" if "chunked" in named or "linearcrossentropy" in named else "plain"
    return found


def _tune_targets(model: Keys) -> str:
    attention = set(model.words("lora_attn_modules") or ())
    if model.flag("apply_lora_to_mlp"):
        return "all"
    if "output_proj" in attention:
        return "attention"
    return "qkv" if "k_proj" in attention else "qv"


def tune_model(component: str) -> str | None:
    """The model that a builder of torchtune makes, in the spelling of model names; None where it says none."""
    found = _TUNE_MODEL.match(component.rpartition(".")[2])
    if found is None:
        return None
    family, major, minor, size = found.groups()
    version = ".".join(part for part in (major, minor) if part)
    name = "-".join(part for part in (family, version, size.replace("_", "-")) if part)
    return re.sub(r"^qwen-2\.5", "qwen2.5", re.sub(r"^qwen-(\d)", r"qwen\1", name))
