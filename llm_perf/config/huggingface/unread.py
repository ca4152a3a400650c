"""Keys of a config that no row asked for: refused where they change shapes, else said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from llm_perf.config.huggingface.class_defaults import unread_defaults
from llm_perf.config.huggingface.reader import Config

_TAKEN_FOR_GRANTED: Mapping[str, Any] = {
    "add_cross_attention": False,
    "attention_bias": False,
    "attention_head_type": "multihead",
    "cross_attention_layers": (),
    "is_encoder_decoder": False,
    "layer_norm_elementwise_affine": True,
    "mlp_bias": False,
    "qk_layernorm": False,
    "use_bidirectional_attention": False,
    "use_qk_norm": False,
}
"""A null or empty value stands for the one that is taken for granted."""

SHAPELESS = re.compile(
    # what runs and how: formats, libraries, names
    r"_.*|architectures|model_type|auto_map|id2label|label2id|problem_type|return_dict|use_cache|.*version|dtype|torch_dtype|"
    r"name|task_specific_params|quantization_config|compression_config|.*attn_implementation|use_flash_attn|fused_.*|"
    r"residual_in_fp32|.*_fp32.*|router_dtype|mamba_ssm_dtype|mamba_ssm_cache_dtype|init_device|tokenizer_class|.*_path|.*_file|license|torchscript|tf_legacy_loss|"
    # tokens and sampling
    r".*_tokens?_ids?|.*_token_index|.*_index|suppress_tokens|begin_suppress_tokens|.*max_new_tokens|max_length|num_beams|"
    r"length_penalty|temperature|langs|early_stopping|.*no_repeat_ngram_size|"
    # training
    r".*dropout.*|.*pdrop|.*layerdrop|.*(loss|aux).*|initializer_.*|.*_initializer_range|init_.*|.*_init.*|pretraining_tp|"
    r".*jitter.*|mask_(time|feature)_.*|summary_.*|classifier_.*|expert_capacity|moe_eval_.*|moe_token_.*|"
    # functions without weights
    r".*_act|.*_act_fn|.*activation.*|afn|.*eps|.*epsilon|.*softcapping|logit_scale|logits_scaling|.*multiplier|"
    r"(routed|route|router|moe_routed|moe_router)_scal.*|scale_.*|.*_scale|scale|norm_topk_prob|moe_norm_min|"
    r"query_pre_attn_scalar|attn_temperature_.*|floor_scale|swiglu_.*|residual_.*|clip_qkv|"
    # positions without weights
    r"rope.*|layer_rope_theta|.*rotary.*|alibi.*|offset_alibi|position_embedding_type|original_max_position_embeddings|"
    r"relative_attention_max_distance|.*max_distance|no_rope_.*|n_ctx|seq_length|"
    # which of the experts, without weights
    r"n_group|topk_group|topk_method|scoring_func|moe_router_.*|expert_selection_fn|second_expert_policy|seq_aux|ep_size|"
    # where windows lie; read where a layer slides
    r"sliding_window.*|use_sliding_window|max_window_layers|attention_window|window_size|attention_type|block_size|"
    # said by name elsewhere
    r"num_nextn_predict_layers|.*_config|tie_word_embeddings|tie_encoder_decoder"
)
"""Keys that change no count in any family; where one does, its row reads it."""


_NOTHING: tuple[Any, ...] = (None, False, "", [], {})


def _left(c: Config) -> dict[str, Any]:
    """Keys with a value that nothing asked for."""
    return {
        name: value
        for name, value in c.fields.items()
        if ".".join((*c.path, name)) not in c.read and value not in _NOTHING
    }


def refuse_unread(c: Config) -> None:
    """Refuse a config that says something about shapes which its family's row never asked for.

    Raises:
        SpecError: names the key, its value and the value that is counted.
    """
    for name, granted in _TAKEN_FOR_GRANTED.items():
        value = c.fields.get(name)
        if (
            ".".join((*c.path, name)) in c.read
            or value is None
            or value == granted
            or (not value and not granted)
        ):
            continue
        raise c.fault(name, value, f"{granted!r}: model_type {c.family!r} is counted without any other value")


def describe_unread(c: Config, model_type: str) -> str | None:
    """A note about keys that may change the model and that its row does not know, None where there are none.

    Keys that change no count anywhere, and those at the default of their class, are not worth a word.
    """
    known = unread_defaults(model_type)
    left = _left(c).items()
    return _named(name for name, value in left if not (name in known and known[name] == value))


def describe_unknown(config: Mapping[str, Any], known: Mapping[str, Any]) -> str | None:
    """The same of a config whose class read it: keys that the class does not know."""
    return _named(
        name for name, value in config.items() if value not in _NOTHING and known and name not in known
    )


def _named(names: Iterable[str]) -> str | None:
    odd = sorted(name for name in names if name not in _TAKEN_FOR_GRANTED and not SHAPELESS.fullmatch(name))
    if not odd:
        return None
    shown = ", ".join(odd[:8]) + (f" and {len(odd) - 8} more" if len(odd) > 8 else "")
    return f"not read, whatever it says: {shown}"
