"""Files of Hugging Face's Trainer and of what is built on it: axolotl and LLaMA-Factory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llm_perf.analysis.trainer_files.keys import Keys
from llm_perf.analysis.trainer_files.native import FULL_RECOMPUTATION, deepspeed, optimizer_of, precision_of
from llm_perf.config import files

_OF_DEEPSPEED: Final = (
    "ds_zero",
    "optimizer_device",
    "weights_device",
    "activations_device",
    "reduce_bucket_size",
    "offload_overlap",
    "zenflow_topk_ratio",
    "zenflow_update_interval",
    "superoffload_ratio",
)
"""What a DeepSpeed configuration beside a Trainer decides; batch and precision are the Trainer's."""
_FIRST: Final = frozenset({"q_proj", "k_proj", "v_proj", "c_attn", "query_key_value", "qkv_proj", "Wqkv"})
_ENDS: Final = frozenset({"embed_tokens", "lm_head", "wte", "tok_embeddings", "output"})


def hf_arguments(keys: Keys) -> dict[str, Any]:
    """TrainingArguments of Hugging Face's Trainer or TRL, as JSON or YAML; DeepSpeed's configuration in or beside it."""
    found = _shared(keys)
    found["framework"] = "trl" if "max_length" in keys or "max_seq_length" in keys else "hf_trainer"
    found["seq_len"] = (
        keys.integer("max_length") or keys.integer("max_seq_length") or keys.integer("model_max_length")
    )
    found["lora_rank"] = keys.integer("lora_r") or keys.integer("lora_rank")
    if found["lora_rank"]:
        found["lora_targets"] = targets_of(keys.words("lora_target_modules"))
        found["base_weight_bits"] = _loaded(keys)
    if keys.flag("use_liger_kernel") or keys.flag("use_liger"):
        found["loss"] = "fused"
    return found | _sharding(keys)


def axolotl(keys: Keys) -> dict[str, Any]:
    """A configuration of axolotl (YAML)."""
    found = _shared(keys, micro="micro_batch_size", model="base_model", optimizer="optimizer")
    found |= {"framework": "axolotl", "seq_len": keys.integer("sequence_len")}
    adapter = keys.text("adapter")
    if adapter in ("lora", "qlora"):
        every = keys.flag("lora_target_linear")
        modules = keys.words("lora_target_modules")
        found |= {
            "lora_rank": keys.integer("lora_r"),
            "lora_targets": "all" if every or not modules else targets_of(modules),
            "adapter": "dora" if keys.flag("peft_use_dora") else None,
            "lora_ends": _ends(keys.words("lora_modules_to_save")),
            "base_weight_bits": _loaded(keys) or (4 if adapter == "qlora" else None),
        }
    elif adapter is not None:
        raise keys.wrong("adapter", "lora or qlora")
    if keys.flag("liger_fused_linear_cross_entropy") or keys.flag("cut_cross_entropy"):
        found["loss"] = "fused"
    elif keys.flag("chunked_cross_entropy"):
        found["loss"] = "chunked"
    if keys.flag("flash_attention") is False and keys.flag("sdp_attention") is not True:
        found["flash_attn"] = False
    found["tp_size"] = keys.integer("tensor_parallel_size")
    found["cp_size"] = keys.integer("context_parallel_size") or keys.integer("sequence_parallel_degree")
    return found | _sharding(keys)


def llama_factory(keys: Keys) -> dict[str, Any]:
    """A configuration of LLaMA-Factory (YAML or JSON)."""
    found = _shared(keys)
    found |= {
        "framework": "unsloth" if keys.flag("use_unsloth") else "llama_factory",
        "seq_len": keys.integer("cutoff_len"),
    }
    if keys.flag("disable_gradient_checkpointing"):
        found["activation_recomputation"] = 0
    elif found["activation_recomputation"] is None:
        found["activation_recomputation"] = FULL_RECOMPUTATION
    kind = keys.text("finetuning_type") or "lora"
    pure = keys.flag("pure_bf16")
    sharding = _sharding(keys)
    if kind == "lora":
        stated = keys.words("lora_target")
        found |= {
            "lora_rank": keys.integer("lora_rank") or 8,
            "lora_targets": "all" if not stated or stated == ["all"] else targets_of(stated),
            "adapter": "dora" if keys.flag("use_dora") else None,
            "lora_ends": _ends(keys.words("additional_target")),
            "base_weight_bits": keys.integer("quantization_bit"),
            "base_double_quant": keys.flag("double_quantization"),
        }
    elif kind != "full":
        raise keys.wrong("finetuning_type", "full or lora")
    elif not pure and sharding.get("framework") is None:
        found["weights_dtype_bytes"] = 4  # what is trained is cast up to 32 bits
    attention = keys.text("flash_attn")
    if attention in ("disabled", "false"):
        found["flash_attn"] = False
    if keys.flag("enable_liger_kernel"):
        found["loss"] = "fused"
    return found | sharding


# -- what they share -------------------------------------------------------------------------------------------------------


def _shared(
    keys: Keys,
    micro: str = "per_device_train_batch_size",
    model: str = "model_name_or_path",
    optimizer: str = "optim",
) -> dict[str, Any]:
    checkpointing = keys.raw("gradient_checkpointing")
    recomputes = None if checkpointing is None else checkpointing not in (False, "false", "False")
    found: dict[str, Any] = {
        "model": keys.text(model),
        "micro_batch_size": keys.integer(micro),
        "gradient_accumulation_steps": keys.integer("gradient_accumulation_steps"),
        "precision": precision_of(_on(keys, "bf16"), _on(keys, "fp16"), None),
        "activation_recomputation": None if recomputes is None else FULL_RECOMPUTATION * recomputes,
        "optimizer": optimizer_of(keys, optimizer),
        "compile": keys.flag("torch_compile"),
    }
    if checkpointing == "offload" or keys.flag("activation_offloading"):
        found["activations_device"] = "cpu"
    return found


def _on(keys: Keys, name: str) -> bool | None:
    """A flag that may also be "auto", "full" or the like."""
    value = keys.raw(name)
    return bool(value) and str(value).lower() not in ("false", "no", "0")


def _loaded(keys: Keys) -> int | None:
    if keys.flag("load_in_4bit"):
        return 4
    return 8 if keys.flag("load_in_8bit") else None


def _ends(saved: list[str] | None) -> bool | None:
    return True if saved and set(saved) & _ENDS else None


def targets_of(modules: list[str] | None) -> str | None:
    """Which matrices names of modules stand for."""
    if not modules:
        return None
    names = {name.rpartition(".")[2] for name in modules}
    if names & {"all-linear", "all_linear", "all"}:
        return "all"
    if names & {
        "gate_proj",
        "up_proj",
        "down_proj",
        "w1",
        "w2",
        "w3",
        "fc1",
        "fc2",
        "gate_up_proj",
        "dense_h_to_4h",
    }:
        return "all"
    if names - _FIRST:
        return "attention"
    return "qv" if names == {"q_proj", "v_proj"} else "qkv"


def _sharding(keys: Keys) -> dict[str, Any]:
    """DeepSpeed's configuration, in the file or named by it, or FSDP's."""
    stated = keys.raw("deepspeed")
    if stated is not None and stated is not False:
        inside = stated if isinstance(stated, Mapping) else _beside(keys, str(stated))
        own = Keys(inside, keys.where, "deepspeed.")
        read = deepspeed(own)
        return {"framework": "deepspeed"} | {
            name: read[name] for name in _OF_DEEPSPEED if read.get(name) is not None
        }
    fsdp = keys.words("fsdp")
    config = keys.part("fsdp_config") if "fsdp_config" in keys else None
    if not fsdp and config is None:
        return {}
    offloaded = "offload" in (fsdp or ()) or (config is not None and any(
        config.flag(name) for name in ("fsdp_offload_params", "offload_params", "cpu_offload") if name in config
    ))  # fmt: skip
    found: dict[str, Any] = {"ds_zero": 2 if "shard_grad_op" in (fsdp or ()) else 3}
    if offloaded:
        found |= {"weights_device": "cpu", "optimizer_device": "cpu", "ds_zero": 3}
    if (
        config is not None
        and "activation_checkpointing" in config
        and config.flag("activation_checkpointing")
    ):
        found["activation_recomputation"] = FULL_RECOMPUTATION
    return found


def _beside(keys: Keys, name: str) -> dict[str, Any]:
    """The mapping of a file that a file names, beside it or as the name stands."""
    here = Path(keys.where).parent / name
    path = here if here.is_file() else files.expanded(name)
    return files.parse_mapping(files.read_text(path), str(path))
