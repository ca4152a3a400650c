"""The table of architectures, continued: Gemma 3n and 4, whose late layers read the cache of earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llm_perf.config.huggingface.facts import FLAGGED, both_heads
from llm_perf.config.huggingface.family import FULL, Family, one_in
from llm_perf.config.huggingface.reader import Config
from llm_perf.config.layers.attention import Attention
from llm_perf.config.layers.base import FeedForward, Mixer
from llm_perf.config.layers.experts import MoEMLP
from llm_perf.config.layers.feed_forward import DenseMLP


def _reusing(c: Config) -> Callable[[int], bool]:
    """The last ``num_kv_shared_layers`` layers have no keys and values of their own."""
    shared = c.count("num_kv_shared_layers") or 0
    if shared >= c.layers:
        raise c.fault("num_kv_shared_layers", shared, f"less than the {c.layers} layers")
    return lambda layer: layer >= c.layers - shared


def _shares(c: Config) -> Callable[[int, Mixer], Mixer]:
    reuses = _reusing(c)

    def adapt(layer: int, mixer: Mixer) -> Mixer:
        return mixer.replace(reuses_cache=True, qk_norm=mixer.head_dim) if reuses(layer) else mixer

    return adapt


# -- Gemma 3n -----------------------------------------------------------------------------------------------


def _streams(c: Config) -> int:
    return c.size("altup_num_inputs")


def _gemma3n_layer(c: Config) -> int:
    """AltUp (arXiv 2301.13310), LAuReL (arXiv 2411.07501), and the gate and projection of the layer's own embedding."""
    hidden, streams, rank = c.hidden, _streams(c), c.size("laurel_rank")
    altup = streams * streams + streams**3 + streams * hidden + hidden
    altup += hidden if c.flag("altup_correct_scale", otherwise=True) else 0
    return altup + 2 * rank * hidden + hidden + 2 * c.size("hidden_size_per_layer_input") * hidden + hidden


def _gemma3n_beside(c: Config) -> int:
    """The projection and norm of what the layers' own tables give, and the projections between streams."""
    width = c.layers * c.size("hidden_size_per_layer_input")
    return width * c.hidden + c.size("hidden_size_per_layer_input") + 2 * (_streams(c) - 1) * c.hidden**2


def _own_tables(c: Config) -> int:
    """A token's row for each layer."""
    width = c.layers * (c.count("hidden_size_per_layer_input") or 0)
    return width * c.size("vocab_size_per_layer_input") if width else 0


def _gemma3n_blocks(c: Config) -> list[FeedForward]:
    """One width for all layers, or one for each."""
    given = c.plain("intermediate_size")
    widths = given if isinstance(given, list) else [c.size("intermediate_size")] * c.layers
    if len(widths) != c.layers:
        raise c.fault("intermediate_size", widths, f"one width, or {c.layers}")
    return [DenseMLP(ffn_size=width, gated=True) for width in widths]


# -- Gemma 4 ------------------------------------------------------------------------------------------------


def _full_layers(c: Config) -> Mapping[str, int]:
    """Width and number of the heads of keys in full layers: their own keys, or what all entries per layer agree on."""
    per_layer = c.plain("per_layer_config")
    if per_layer is None:
        own = {"head_dim": c.optional("global_head_dim") or 512}
        heads = c.optional("num_global_key_value_heads") if c.flag("attention_k_eq_v") else None
        return own | ({} if heads is None else {"num_kv_heads": heads})
    names = {"head_dim": "head_dim", "num_key_value_heads": "num_kv_heads"}
    entries = list(per_layer.values()) if isinstance(per_layer, dict) else [per_layer]
    known = all(isinstance(entry, dict) and entry.keys() <= names.keys() for entry in entries)
    listed = c.items("layer_types", str) or []
    full = [i for i in range(c.layers) if (listed[i] if i < len(listed) else _GEMMA4_TYPES(c)(i)) == FULL]
    same = all(entry == entries[0] for entry in entries)
    if not known or not same or (entries and sorted(map(int, per_layer)) != full):
        raise c.fault("per_layer_config", per_layer, "one width of heads for all full layers")
    return {names[key]: value for key, value in (entries[0] if entries else {}).items()}


_GEMMA4_TYPES = one_in(6, ends=True)


def _gemma4_adapt(c: Config) -> Callable[[int, Mixer], Mixer]:
    """Full layers have wider heads, and one projection for keys and values where the config says so."""
    reuses, of_full, joined = _reusing(c), _full_layers(c), c.flag("attention_k_eq_v")
    if c.plain("use_bidirectional_attention") not in (None, False, "vision"):
        raise c.fault(
            "use_bidirectional_attention", c.plain("use_bidirectional_attention"), "null or 'vision'"
        )

    def adapt(layer: int, mixer: Mixer) -> Mixer:
        if not isinstance(mixer, Attention):
            return mixer
        if mixer.window is None:
            mixer = mixer.replace(**of_full, keys_as_values=joined)
        norms = mixer.head_dim if reuses(layer) else 2 * mixer.head_dim
        return mixer.replace(qk_norm=norms, reuses_cache=reuses(layer))

    return adapt


def _has_experts(c: Config) -> bool:
    return c.flag("enable_moe_block")


def _gemma4_layer(c: Config) -> int:
    """The gate, projection and norm of the layer's own embedding; the norms and scales of a mixture beside the block."""
    width = c.count("hidden_size_per_layer_input") or 0
    own = 2 * width * c.hidden + c.hidden if width else 0
    return own + (4 * c.hidden + c.experts if _has_experts(c) else 0)


def _gemma4_beside(c: Config) -> int:
    width = c.count("hidden_size_per_layer_input") or 0
    if not width:
        return 0
    return c.layers * width * c.hidden + width


def _gemma4_blocks(c: Config) -> list[FeedForward]:
    """Twice as wide where the cache is another layer's, if so said; beside experts the block is what every token uses."""
    width, reuses = c.size("intermediate_size"), _reusing(c)
    double = c.flag("use_double_wide_mlp")
    widths = [width * (2 if double and reuses(layer) else 1) for layer in range(c.layers)]
    if not _has_experts(c):
        return [DenseMLP(ffn_size=each, gated=True) for each in widths]
    return [
        MoEMLP(
            num_experts=c.experts,
            top_k=c.size("top_k_experts"),
            ffn_size=c.size("moe_intermediate_size"),
            shared_ffn_size=each,
        )
        for each in widths
    ]


_GEMMA4 = Family(
    defaults=None,
    facts={**FLAGGED, "qk_norm": both_heads},
    pattern=_GEMMA4_TYPES,
    adapt=_gemma4_adapt,
    norms=4,
    mlps=_gemma4_blocks,
    other_params=_gemma4_layer,
    model={"other_params": _gemma4_beside, "layer_table_params": _own_tables},
)
GEMMA: Mapping[str, Family] = {
    "gemma3n_text": Family(
        defaults=None,
        facts={**FLAGGED, "qk_norm": both_heads},
        pattern=one_in(5),
        adapt=_shares,
        norms=4,
        mlps=_gemma3n_blocks,
        other_params=_gemma3n_layer,
        model={"other_params": _gemma3n_beside, "layer_table_params": _own_tables},
    ),
    "gemma4_text": _GEMMA4,
    "gemma4_unified_text": _GEMMA4,
}
