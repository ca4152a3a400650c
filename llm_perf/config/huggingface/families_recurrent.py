"""The table of architectures, continued: recurrent layers, alone or beside attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_perf.config.huggingface import defaults
from llm_perf.config.huggingface.facts import FLAGGED, both_heads, has_shared, one_shared, sparse_steps
from llm_perf.config.huggingface.families_indexed import INDEXED
from llm_perf.config.huggingface.families_linear import LINEAR_STATES
from llm_perf.config.huggingface.families_mamba import MAMBA
from llm_perf.config.huggingface.families_zamba import ZAMBA
from llm_perf.config.huggingface.family import FULL, LINEAR, Experts, Family, last_of
from llm_perf.config.huggingface.reader import Config
from llm_perf.config.layers.state_space import StateSpace


def _mamba2_heads(c: Config) -> int:
    heads, width = c.size("num_heads"), c.size("expand") * c.hidden
    if heads * c.size("head_dim") != width:
        raise c.fault(
            "num_heads", heads, f"{width} / head_dim: expand times the hidden size over the width of a head"
        )
    return heads


_GATED_DELTA: Mapping[str, Any] = {
    "facts": {**FLAGGED, "qk_norm": both_heads, "output_gate": True},
    "mixers": {LINEAR: (StateSpace, {"delta_rule": True})},
    "pattern": last_of("full_attention_interval", FULL, LINEAR),
}
"""Three gated DeltaNet layers to one of attention with an output gate; MTP layers are left out."""
_QWEN_EXPERTS: Mapping[str, Any] = {
    "ffn": ("moe_intermediate_size",),
    "facts": {"shared_ffn_size": one_shared, "shared_gate": has_shared},
}

RECURRENT: Mapping[str, Family] = {
    "qwen3_next": Family(
        defaults=defaults.QWEN3_NEXT, experts=Experts(**_QWEN_EXPERTS, layers=sparse_steps), **_GATED_DELTA
    ),
    "qwen3_5_text": Family(defaults=defaults.QWEN3_5, **_GATED_DELTA),
    "qwen3_5_moe_text": Family(
        defaults=defaults.QWEN3_5_MOE, experts=Experts(**_QWEN_EXPERTS), **_GATED_DELTA
    ),
    "mamba2": Family(
        defaults={
            "tie_word_embeddings": False,
            "expand": 2,
            "conv_kernel": 4,
            "use_conv_bias": True,
            "n_groups": 8,
            "state_size": 128,
            "head_dim": 64,
            "num_heads": 128,
        },
        mixer=StateSpace,
        facts={
            "num_heads": _mamba2_heads,
            "head_dim": lambda c: c.size("head_dim"),
            "key_heads": lambda c: c.size("n_groups"),
            "key_dim": lambda c: c.size("state_size"),
            "conv_width": lambda c: c.size("conv_kernel"),
            "conv_bias": "use_conv_bias",
            "delta_rule": False,
            "proj_bias": "use_bias",
        },
        no_mlp=True,
        norms=1,
    ),
    **INDEXED,
    **LINEAR_STATES,
    **MAMBA,
    **ZAMBA,
}
