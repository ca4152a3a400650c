"""Laws that counts of shapes obey for every model, whatever its sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.config import ModelConfig, get_model_config_by_name
from llm_perf.config.formats import MatrixFormat, WeightFormats, by_bits
from llm_perf.config.loading import known_names
from llm_perf.config.model import Attention, DenseMLP, LatentAttention, LayerGroup, MoEMLP
from llm_perf.config.quantization import named_quantization
from llm_perf.counts.attention import (
    attended,
    cached_tokens,
    kv_cache_bytes,
    kv_cache_elements,
    kv_elements_per_token,
    prefill_pairs,
)
from llm_perf.counts.flops import decode_step_flops, lm_head_flops, prefill_flops
from llm_perf.counts.linears import layer_linears
from llm_perf.counts.parameters import (
    RankParams,
    active_params,
    embedding_params,
    ends_rank_params,
    layer_params,
    layer_rank_params,
    lm_head_params,
    total_params,
)
from llm_perf.counts.weight_formats import checkpoint_bytes, resolve_formats

small = st.integers(1, 64)
flags = st.booleans()


@st.composite
def attentions(draw: st.DrawFn, local: bool = True) -> Attention:
    kv_heads = draw(st.sampled_from([1, 2, 4, 8]))
    limits: dict[str, int] = {}
    if local:
        limits = draw(
            st.one_of(
                st.just({}),
                st.builds(lambda n: {"window": n}, small),
                st.builds(lambda n: {"chunk": n}, small),
            )
        )
    return Attention(
        num_heads=kv_heads * draw(st.sampled_from([1, 2, 4])),
        num_kv_heads=kv_heads,
        head_dim=draw(small),
        qkv_bias=draw(flags),
        output_bias=draw(flags),
        qk_norm=draw(st.integers(0, 64)),
        sinks=draw(flags),
        **limits,
    )


latent_attentions = st.builds(
    LatentAttention,
    num_heads=st.sampled_from([4, 8, 16]),
    q_lora_rank=st.none() | small,
    kv_lora_rank=small,
    qk_nope_head_dim=small,
    qk_rope_head_dim=small,
    v_head_dim=small,
)
dense = st.builds(DenseMLP, ffn_size=small, gated=flags, bias=flags)


@st.composite
def mixtures(draw: st.DrawFn) -> MoEMLP:
    experts = draw(st.integers(1, 8))
    return MoEMLP(
        num_experts=experts,
        top_k=draw(st.integers(1, experts)),
        ffn_size=draw(small),
        gated=draw(flags),
        bias=draw(flags),
        shared_ffn_size=draw(st.integers(0, 32)),
        shared_gate=draw(flags),
        router_bias=draw(flags),
    )


def groups(attention: st.SearchStrategy[Any], mlp: st.SearchStrategy[Any]) -> st.SearchStrategy[LayerGroup]:
    return st.builds(
        LayerGroup,
        count=st.integers(1, 5),
        attention=attention,
        mlp=mlp,
        norms=st.integers(0, 4),
        parallel_attention=flags,
    )


def models(group: st.SearchStrategy[LayerGroup]) -> st.SearchStrategy[ModelConfig]:
    return st.builds(
        ModelConfig,
        name=st.just("m"),
        hidden_size=small,
        vocab_size=small,
        layer_groups=st.lists(group, min_size=1, max_size=3).map(tuple),
        embedding_size=st.none() | small,
        learned_positions=st.integers(0, 64),
        tied_embeddings=flags,
        lm_head_bias=flags,
        norm_bias=flags,
        embedding_norm=flags,
        final_norm=flags,
    )


any_attention = attentions() | latent_attentions
any_model = models(groups(any_attention, dense | mixtures()))
full_attention = models(groups(attentions(local=False), dense | mixtures()))
bundled = pytest.mark.parametrize("name", known_names("model"))


# -- parameters --------------------------------------------------------------------------------------------


@given(full_attention, st.data())
def test_ranks_hold_the_whole_model_between_them(model: ModelConfig, data: st.DataObject) -> None:
    """Sharded x tp + replicated = whole, as long as every rank has a key and value head of its own."""
    tp = data.draw(st.integers(1, min(group.attention.num_kv_heads for group in model.layer_groups)))
    for group in model.layer_groups:
        rank = layer_rank_params(model, group, tp)
        assert rank.sharded * tp + rank.replicated == pytest.approx(layer_params(model, group))
    embedding, head = ends_rank_params(model, tp)
    assert embedding.sharded * tp + embedding.replicated == pytest.approx(embedding_params(model))
    assert head.sharded * tp + head.replicated == pytest.approx(lm_head_params(model))


@given(models(groups(latent_attentions, dense)), st.integers(1, 16))
def test_latent_attention_is_shared_out_by_heads_alone(model: ModelConfig, tp: int) -> None:
    for group in model.layer_groups:
        rank = layer_rank_params(model, group, tp)
        assert rank.sharded * tp + rank.replicated == pytest.approx(layer_params(model, group))


@given(full_attention)
def test_more_ranks_than_key_value_heads_hold_them_more_than_once(model: ModelConfig) -> None:
    for group in model.layer_groups:
        heads = group.attention.num_kv_heads
        before, after = layer_rank_params(model, group, heads), layer_rank_params(model, group, 2 * heads)
        assert after.total <= before.total
        assert after.sharded * 2 * heads + after.replicated > layer_params(model, group)


@given(any_model)
def test_one_rank_holds_everything(model: ModelConfig) -> None:
    rank = sum((layer_rank_params(model, g) * g.count for g in model.layer_groups), RankParams(0.0, 0.0))
    embedding, head = ends_rank_params(model)
    assert (rank + embedding + head).total == pytest.approx(total_params(model))


@given(attentions(), st.integers(2, 8), small, flags, st.sampled_from([1, 2, 4]), st.data())
def test_expert_parallel_ranks_hold_all_experts_between_them(
    attention: Attention, experts: int, width: int, gated: bool, tp: int, data: st.DataObject
) -> None:
    ep = data.draw(st.sampled_from([ways for ways in range(1, experts + 1) if experts % ways == 0]))
    mlp = MoEMLP(num_experts=experts, top_k=1, ffn_size=width, gated=gated)
    group = LayerGroup(count=1, attention=attention, mlp=mlp)
    model = ModelConfig(name="m", hidden_size=16, vocab_size=8, layer_groups=(group,))
    alone, spread = (layer_rank_params(model, group, tp, ways, dp=ep) for ways in (1, ep))
    held_by_all = experts * (3 if gated else 2) * width * 16
    assert alone.sharded - spread.sharded == pytest.approx(held_by_all / tp * (1 - 1 / ep))
    assert alone.replicated == pytest.approx(spread.replicated)


@given(any_attention, small, flags, flags)
def test_a_mixture_of_one_expert_is_a_dense_block_with_a_router(
    attention: Attention | LatentAttention, width: int, gated: bool, bias: bool
) -> None:
    one = MoEMLP(num_experts=1, top_k=1, ffn_size=width, gated=gated, bias=bias)
    plain = DenseMLP(ffn_size=width, gated=gated, bias=bias)
    mixture, block = (
        ModelConfig(
            name="m",
            hidden_size=32,
            vocab_size=100,
            layer_groups=(LayerGroup(count=3, attention=attention, mlp=mlp),),
        )
        for mlp in (one, plain)
    )
    assert total_params(mixture) == total_params(block) + 3 * 32
    assert active_params(mixture) == total_params(mixture)
    router = 2 * 3 * 32 * 7
    assert prefill_flops(mixture, 1, 7) == pytest.approx(prefill_flops(block, 1, 7) + router)


@given(any_model)
def test_a_token_uses_no_more_than_there_is(model: ModelConfig) -> None:
    assert 0 < active_params(model) <= total_params(model)
    if all(isinstance(group.mlp, DenseMLP) for group in model.layer_groups):
        assert active_params(model) == total_params(model)


@given(
    st.integers(1, 200), st.integers(1, 64), st.integers(1, 16), st.integers(1, 10**5), st.integers(1, 4096)
)
def test_a_gpt_has_the_parameters_of_megatrons_formula(
    layers: int, head_dim: int, heads: int, vocabulary: int, positions: int
) -> None:
    """arXiv 2104.04473, equation 2: P = 12 l h^2 (1 + 13 / (12 h) + (V + s) / (12 l h)), and the final norm."""
    hidden = heads * head_dim
    attention = Attention(
        num_heads=heads, num_kv_heads=heads, head_dim=head_dim, qkv_bias=True, output_bias=True
    )
    group = LayerGroup(count=layers, attention=attention, mlp=DenseMLP(ffn_size=4 * hidden, bias=True))
    model = ModelConfig(
        name="gpt",
        hidden_size=hidden,
        vocab_size=vocabulary,
        learned_positions=positions,
        layer_groups=(group,),
    )
    formula = 12 * layers * hidden**2 + 13 * layers * hidden + (vocabulary + positions) * hidden
    assert total_params(model) == formula + 2 * hidden


@given(st.integers(1, 6), st.integers(1, 6), attentions(), dense)
def test_equal_layers_may_be_grouped_in_any_way(
    first: int, second: int, attention: Attention, mlp: DenseMLP
) -> None:
    def model(*counts: int) -> ModelConfig:
        layers = tuple(LayerGroup(count=count, attention=attention, mlp=mlp) for count in counts)
        return ModelConfig(name="m", hidden_size=16, vocab_size=32, layer_groups=layers)

    whole, split = model(first + second), model(first, second)
    assert total_params(whole) == total_params(split)
    assert kv_cache_elements(whole, 50) == kv_cache_elements(split, 50)
    assert decode_step_flops(whole, 3, 50) == pytest.approx(decode_step_flops(split, 3, 50))


# -- cache -------------------------------------------------------------------------------------------------


@given(st.sampled_from([1, 8, 64]), st.sampled_from([16, 128]), st.sampled_from([8, 64]))
def test_latent_attention_of_full_rank_caches_what_every_head_would(
    heads: int, width: int, rotary: int
) -> None:
    """A latent as wide as all keys and values together: the bytes of multi-head attention."""
    whole = 2 * heads * width
    if rotary >= whole:
        return
    latent = LatentAttention(
        num_heads=heads,
        kv_lora_rank=whole - rotary,
        qk_nope_head_dim=width,
        qk_rope_head_dim=rotary,
        v_head_dim=width,
    )
    full = Attention(num_heads=heads, num_kv_heads=heads, head_dim=width)
    assert kv_elements_per_token(latent) == kv_elements_per_token(full)


@given(latent_attentions)
def test_a_latent_is_smaller_than_the_heads_that_it_stands_for(latent: LatentAttention) -> None:
    """One latent and one rotary part per token (arXiv 2405.04434, table 1), however many ranks there are."""
    assert kv_elements_per_token(latent) == latent.kv_lora_rank + latent.qk_rope_head_dim
    assert kv_elements_per_token(latent, 8) == kv_elements_per_token(latent)
    same_heads = Attention(
        num_heads=latent.num_heads, num_kv_heads=latent.num_heads, head_dim=latent.kv_lora_rank + 64
    )
    assert kv_elements_per_token(latent) < kv_elements_per_token(same_heads)


def test_deepseek_v3_caches_a_57th_of_what_its_heads_would() -> None:
    latent = get_model_config_by_name("deepseek-v3").layer_groups[0].attention
    expanded = Attention(num_heads=128, num_kv_heads=128, head_dim=128)
    # arXiv 2405.04434, table 1: (d_c + d_h^R) l = 9/2 d_h l against 2 n_h d_h l.
    assert kv_elements_per_token(latent) == 9 / 2 * 128
    assert kv_elements_per_token(expanded) / kv_elements_per_token(latent) == pytest.approx(56.9, abs=0.05)


@given(full_attention, st.integers(1, 10**6), st.integers(1, 100))
def test_without_windows_the_cache_is_linear_in_the_context(model: ModelConfig, n: int, k: int) -> None:
    assert kv_cache_elements(model, k * n) == pytest.approx(k * kv_cache_elements(model, n))
    assert kv_cache_bytes(model, k, n, 16) == pytest.approx(2 * k * kv_cache_elements(model, n))
    assert kv_cache_bytes(model, k, n, 4) == pytest.approx(kv_cache_bytes(model, k, n, 16) / 4)


@given(any_attention, st.integers(1, 10**6))
def test_a_window_bounds_the_cache(attention: Attention | LatentAttention, context: int) -> None:
    group = LayerGroup(count=1, attention=attention, mlp=DenseMLP(ffn_size=4))
    limit = attention.saturates_at or math.inf
    assert cached_tokens(group, context) == min(context, limit)
    assert cached_tokens(group, context) <= cached_tokens(group, context + 1)


@given(attentions(), st.integers(1, 64))
def test_ranks_share_the_cache_until_they_outnumber_its_heads(attention: Attention, tp: int) -> None:
    whole, part = kv_elements_per_token(attention), kv_elements_per_token(attention, tp)
    assert part == pytest.approx(whole / min(tp, attention.num_kv_heads))
    assert part >= 2 * attention.head_dim


# -- attention and FLOPs -----------------------------------------------------------------------------------


def seen(attention: Attention, position: int) -> int:
    """Keys that the token at a position, from 1, sees: counted one by one."""
    return sum(
        1
        for key in range(1, position + 1)
        if (attention.window is None or position - key < attention.window)
        and (attention.chunk is None or (key - 1) // attention.chunk == (position - 1) // attention.chunk)
    )


@given(attentions(), st.integers(1, 200))
def test_prefill_pairs_are_those_counted_one_by_one(attention: Attention, tokens: int) -> None:
    counted = [seen(attention, position) for position in range(1, tokens + 1)]
    assert prefill_pairs(attention, tokens) == sum(counted)
    assert prefill_pairs(attention, tokens, causal=False) == tokens**2
    if attention.chunk is None:
        assert [attended(attention, position) for position in range(1, tokens + 1)] == counted


@given(small, st.integers(1, 20))
def test_a_chunk_holds_half_its_length_on_average(chunk: int, chunks: int) -> None:
    attention = Attention(num_heads=1, num_kv_heads=1, head_dim=1, chunk=chunk)
    later = sum(seen(attention, chunk + position) for position in range(1, chunks * chunk + 1))
    assert attended(attention, chunk + 1) * chunks * chunk == pytest.approx(later)


@given(full_attention, st.integers(1, 4), st.integers(1, 60))
def test_decoding_token_by_token_costs_what_one_prefill_costs(
    model: ModelConfig, batch: int, tokens: int
) -> None:
    """Causal full attention: the same products on the same tokens. The prefill's logits are the last ones."""
    head = lm_head_flops(model, batch)
    steps = sum(decode_step_flops(model, batch, context) - head for context in range(1, tokens + 1))
    assert steps == pytest.approx(prefill_flops(model, batch, tokens) - head)
    all_logits = prefill_flops(model, batch, tokens, all_logits=True)
    assert steps == pytest.approx(all_logits - tokens * head)


@given(any_model, st.integers(1, 8), st.integers(1, 500))
def test_work_grows_with_batch_and_context(model: ModelConfig, batch: int, context: int) -> None:
    assert prefill_flops(model, 2 * batch, context) == pytest.approx(2 * prefill_flops(model, batch, context))
    assert prefill_flops(model, batch, context + 1) > prefill_flops(model, batch, context)
    assert decode_step_flops(model, 2 * batch, context) == pytest.approx(
        2 * decode_step_flops(model, batch, context)
    )


@given(full_attention, st.integers(1, 8))
def test_short_contexts_cost_two_flops_per_weight_that_a_token_uses(model: ModelConfig, batch: int) -> None:
    """Kaplan et al., arXiv 2001.08361, section 2.1: a forward pass is 2 N plus attention over the context."""
    step = decode_step_flops(model, batch, 0)
    assert step <= 2 * batch * (active_params(model) + model.vocab_size * max(model.hidden_size, 64))
    slope = decode_step_flops(model, batch, 1) - step
    heads = sum(g.count * g.attention.num_heads * g.attention.head_dim for g in model.layer_groups)
    assert slope == pytest.approx(batch * 4 * heads)


# -- numbers and arrays ------------------------------------------------------------------------------------


@given(any_model, st.lists(st.tuples(st.integers(1, 64), st.integers(1, 5000)), min_size=1, max_size=6))
def test_an_array_gives_what_its_elements_give(model: ModelConfig, points: list[tuple[int, int]]) -> None:
    batch, context = (np.array(column) for column in zip(*points, strict=True))
    for count in (prefill_flops, decode_step_flops, kv_cache_bytes):
        one_by_one = [count(model, b, c) for b, c in points]
        np.testing.assert_allclose(count(model, batch, context), one_by_one, rtol=1e-12)
    for group in model.layer_groups:
        for rule in (attended, prefill_pairs):
            np.testing.assert_array_equal(
                rule(group.attention, context), [rule(group.attention, c) for _, c in points]
            )
        np.testing.assert_array_equal(
            cached_tokens(group, context), [cached_tokens(group, c) for _, c in points]
        )


@bundled
def test_bundled_models_obey_the_same_laws(name: str) -> None:
    model = get_model_config_by_name(name)
    contexts = np.array([1, 100, 2048, 100_000])
    np.testing.assert_allclose(
        decode_step_flops(model, 4, contexts), [decode_step_flops(model, 4, int(c)) for c in contexts]
    )
    cache = kv_cache_elements(model, contexts)
    assert (np.diff(cache) >= 0).all()
    # Beyond the fewest heads that anything has (keys of a state space too), ranks hold copies.
    parts = [part for group in model.layer_groups for part in group.attention.parts]
    kinds = (getattr(part, name, None) for part in parts for name in ("num_kv_heads", "key_heads"))
    heads = min(heads for heads in kinds if heads)
    for group in model.layer_groups:
        rank = layer_rank_params(model, group, heads)
        assert rank.sharded * heads + rank.replicated == pytest.approx(layer_params(model, group))


@given(any_model, st.integers(1, 3))
def test_a_checkpoint_is_every_parameter_at_its_width(model: ModelConfig, modules: int) -> None:
    """Matrices of layers, token table, head and the rest, each of a width; a prediction module is a layer like the last.

    With a projection of two hidden states to one, three norms, and a token table and a head of its own.
    """

    def of(bits: float) -> MatrixFormat:
        return MatrixFormat(bits, "16-bit", "any")

    rows = tuple(
        tuple(of(4) for _ in layer_linears(group, model.hidden_size)) for group in model.layer_groups
    )
    formats = WeightFormats("any", "", rows, of(8), of(16), vector_bits=32)
    matrices = [
        sum(linear.copies * linear.weights for linear in layer_linears(group, model.hidden_size))
        for group in model.layer_groups
    ]
    layers = sum(group.count * size for group, size in zip(model.layer_groups, matrices, strict=True))
    hidden, table = model.hidden_size, model.vocab_size * (model.embedding_size or model.hidden_size)
    head = 0 if model.tied_embeddings else table
    rest = total_params(model) - layers - table - head
    found = checkpoint_bytes(model, formats)
    assert found == pytest.approx(layers / 2 + table + 2 * head + 4 * rest, rel=1e-12)
    vectors = layer_params(model, model.layer_groups[-1]) - matrices[-1]
    module = matrices[-1] / 2 + 4 * (vectors + 2 * hidden**2 + 3 * hidden + 2 * table)
    assert checkpoint_bytes(model, formats, modules) - found == pytest.approx(modules * module, rel=1e-9)


@pytest.mark.parametrize("format_name", ["exl2", "exl3"])
@pytest.mark.parametrize(("bits", "head"), [(1.6, 3), (2.5, 6), (4.0, 6), (4.25, 8), (8, 8)])
def test_a_checkpoint_of_bits_per_weight_is_weights_times_bits(
    format_name: str, bits: float, head: int
) -> None:
    """All matrices at their bits, the head at its own, and the token table and norms in 16."""
    model = get_model_config_by_name("llama-3.1-8b")
    formats = resolve_formats(model, named_quantization(f"{format_name}-{bits:g}bpw-h{head}"))
    found = by_bits(formats.name)
    assert found is not None
    assert (found.format, found.bits, found.head_bits) == (format_name, bits, head)
    matrices = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    table = 128256 * 4096
    saved = matrices * (16 - bits) + table * (16 - head)
    assert checkpoint_bytes(model, formats) == pytest.approx(2 * total_params(model) - saved / 8, rel=1e-12)


def test_a_tied_head_is_stored_at_its_own_bits() -> None:
    """exllamav3 converts the head of a model that has none apart from its token table."""
    model = get_model_config_by_name("llama-3.2-1b")
    assert model.tied_embeddings
    formats = resolve_formats(model, named_quantization("exl3-3.5bpw"))
    assert (formats.head.bits, formats.embedding.bits) == (6.0, 16.0)
    assert resolve_formats(model, named_quantization("gptq")).head.bits == 16.0
