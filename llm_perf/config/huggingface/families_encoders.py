"""The table of architectures, continued: encoders of the BERT line, with the head that predicts masked tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_perf.config.huggingface.facts import BIASES, FLAGGED, LAYERNORM, positions
from llm_perf.config.huggingface.family import FULL, SLIDING, Fact, Family, one_in
from llm_perf.config.huggingface.reader import Config
from llm_perf.config.layers.attention import Attention

Count = Callable[[Config], int]


def segments(c: Config) -> int:
    """The table of token types."""
    return (c.count("type_vocab_size") or 0) * c.hidden


def transform(c: Config) -> int:
    """What stands before the logits of a masked head: a dense layer and a norm."""
    return c.hidden * (c.hidden + 1) + 2 * c.hidden


def head(c: Config) -> int:
    """The transform; an untied head has a bias of its own beside the masked head's."""
    return transform(c) + own_bias(c)


def own_bias(c: Config) -> int:
    """A second bias over the vocabulary where the head is not tied."""
    return 0 if c.flag("tie_word_embeddings", otherwise=True) else c.size("vocab_size")


def pooler(c: Config) -> int:
    """A dense layer over the first token."""
    return c.hidden * (c.hidden + 1)


def _sum(*parts: Count) -> Count:
    return lambda c: sum(part(c) for part in parts)


def _encodes(c: Config) -> bool:
    return not c.flag("is_decoder")


def bert(*others: Count, rows: Count = positions, layer: Fact = 0, **changes: Any) -> Family:
    """BERT (arXiv 1810.04805): norms after both blocks, biases everywhere; ``others`` count what stands beside the layers.

    ``rows`` are those of its position table, ``layer`` what a layer has beyond BERT's, ``changes`` fields of the row or,
    under ``model``, of the model.
    """
    model = {
        **LAYERNORM,
        "learned_positions": rows,
        "embedding_norm": True,
        "final_norm": False,
        "lm_head_bias": True,
        "encoder": _encodes,
        "other_params": _sum(*others),
        **changes.pop("model", {}),
    }
    return Family(
        **{
            "defaults": None,
            "facts": BIASES,
            "gated": False,
            "mlp_bias": True,
            "other_params": layer,
            "model": model,
            **changes,
        }
    )


def _offset(rows: int) -> Count:
    """A position table with rows for padding."""
    return lambda c: positions(c) + rows


def _no_rows(_: Config) -> int:
    return 0


# -- what one family has beside ---------------------------------------------------------------------------------


def _electra(c: Config) -> int:
    """Tables and norms of the embedding's width, the bias of its projection, the generator's dense layer and norm."""
    width = c.size("embedding_size")
    tables = ((c.context or 0) + (c.count("type_vocab_size") or 0) + 2) * width
    dense = c.hidden if width != c.hidden else width * c.hidden
    return tables + dense + width + 2 * width


def _narrow(c: Config) -> int | None:
    width = c.size("embedding_size")
    return width if width != c.hidden else None


def _rembert(c: Config) -> int:
    """Tables of the input width, its projection's bias, and a head of the output width beside the input's table."""
    inner, outer = c.size("input_embedding_size"), c.size("output_embedding_size")
    tables = ((c.context or 0) + (c.count("type_vocab_size") or 0) + 2) * inner + c.hidden
    head = outer * (c.hidden + 1) + 2 * outer + c.size("vocab_size") * outer
    # The projection that a narrow table has before its head is the model's own here, of the output width.
    return tables + head - inner * c.hidden


def _languages(c: Config) -> int:
    """XLM: a table of languages where there are several."""
    count = c.count("n_langs") or 1
    return count * c.hidden if count > 1 and c.flag("use_lang_emb", otherwise=True) else 0


def _wide(c: Config) -> int:
    return 4 * c.hidden


def _ernie_tasks(c: Config) -> int:
    return (c.count("task_type_vocab_size") or 0) * c.hidden if c.flag("use_task_id") else 0


def _roc(c: Config) -> int:
    """Tables of sounds and shapes of characters, and the layer that joins them to the token."""
    sound, shape = c.size("pronunciation_embed_dim"), c.size("shape_embed_dim")
    joined = c.hidden + (sound if c.flag("enable_pronunciation") else 0)
    joined += shape if c.flag("enable_shape") else 0
    tables = c.size("pronunciation_vocab_size") * sound + c.size("shape_vocab_size") * shape
    return tables + (c.hidden * (joined + 1) if c.flag("concat_input") else 0)


def _roformer(c: Config) -> int:
    """A stored table of rotations, one head wide."""
    return positions(c) * c.head_dim


def _same_width(c: Config) -> int:
    """None more in a layer; a projection between table and layers is not counted in this family."""
    if (c.optional("embedding_size") or c.hidden) != c.hidden:
        raise c.fault("embedding_size", c.plain("embedding_size"), f"the hidden size, {c.hidden}")
    return 0


def _layout(c: Config) -> int:
    """Tables of the left, upper, width and height coordinates."""
    return 4 * c.size("max_2d_position_embeddings") * c.hidden


def _second_projections(c: Config) -> int:
    """Queries, keys and values of global tokens (Longformer), or the queries of entities (LUKE)."""
    return 3 * c.hidden * (c.hidden + 1)


def _luke_queries(c: Config) -> int:
    return _second_projections(c) if c.flag("use_entity_aware_attention") else 0


def _luke(c: Config) -> int:
    """Entities: their table, its projection, positions, types and norm, and their own masked head."""
    entities, width = c.size("entity_vocab_size"), c.size("entity_emb_size")
    dense = width * c.hidden if width != c.hidden else 0
    embeddings = entities * width + dense + positions(c) * c.hidden + segments(c) + 2 * c.hidden
    tied = c.flag("tie_word_embeddings", otherwise=True)
    predictions = 0 if tied else entities * width
    return embeddings + width * (c.hidden + 1) + 2 * width + entities + predictions + own_bias(c)


def _adapters(c: Config) -> int:
    """X-MOD: a bottleneck per language in every layer."""
    languages = c.items("languages", str)
    if c.flag("pre_norm"):
        raise c.fault("pre_norm", True, "false: norms after the blocks are what is counted")
    if c.flag("adapter_layer_norm"):
        raise c.fault("adapter_layer_norm", True, "false: the layer's norm is reused")
    width = c.hidden // c.size("adapter_reduction_factor")
    return len(languages or ("en_XX",)) * (2 * c.hidden * width + width + c.hidden)


def _deberta_plain(c: Config) -> int:
    """None more in a layer."""
    if c.flag("relative_attention"):
        raise c.fault("relative_attention", True, "false: relative positions are not counted in this family")
    return 0


def _deberta(c: Config) -> int:
    """The two biases of its joined projection."""
    return _deberta_plain(c) + 2 * c.hidden


def _deberta_rows(c: Config) -> int:
    return positions(c) if c.flag("position_biased_input", otherwise=True) else 0


def _tapas(c: Config) -> int:
    return sum(c.items("type_vocab_sizes", int) or (3, 256, 256, 2, 256, 256, 10)) * c.hidden


def _buckets(c: Config) -> int:
    """MPNet: relative positions, shared by the layers."""
    return c.size("relative_attention_num_buckets") * c.heads


def _down_bias(c: Config) -> int:
    return c.hidden


def _modernbert_types(c: Config) -> Callable[[int], str]:
    every = c.optional("global_attn_every_n_layers") or 3
    return lambda layer: SLIDING if layer % every else FULL


def _modernbert(encoder: bool) -> Family:
    """Every third layer global, no norm before the first, no biases (arXiv 2412.13663)."""
    reach = 1 if encoder else 2  # the decoder sees the half before a token

    def norms(_: Config) -> Callable[[int], Mapping[str, Any]]:
        return lambda layer: {"norms": 1 if layer == 0 else 2}

    return Family(
        defaults=None,
        facts=FLAGGED,
        pattern=_modernbert_types,
        mlp_bias="mlp_bias",
        each=norms,
        mixers={SLIDING: (Attention, {**FLAGGED, "window": lambda c: c.size("local_attention") // reach})},
        model={
            "norm": "layernorm",
            "norm_bias": lambda c: c.flag("norm_bias"),
            "embedding_norm": True,
            "lm_head_bias": lambda c: c.flag("decoder_bias", otherwise=True),
            "encoder": encoder,
            "other_params": lambda c: c.hidden * (c.hidden + (2 if c.flag("norm_bias") else 1)),
        },
    )


_LLAMA_ENCODER: Mapping[str, Any] = {"defaults": None, "facts": FLAGGED, "mlp_bias": "mlp_bias"}
_XLM = bert(
    _languages,
    names={"hidden_size": "emb_dim"},
    ffn_size=_wide,
    model={"encoder": lambda c: c.flag("is_encoder", otherwise=True)},
)
_BERT = bert(segments, head)

ENCODERS: Mapping[str, Family] = {
    "bert": _BERT,
    "camembert": _BERT,
    "data2vec-text": _BERT,
    "ibert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "bert-generation": bert(own_bias),
    "big_bird": bert(segments, head, pooler, facts={"qkv_bias": "use_bias", "output_bias": True}),
    "electra": bert(_electra, rows=_no_rows, model={"embedding_norm": False, "embedding_size": _narrow}),
    "ernie": bert(segments, head, _ernie_tasks),
    "megatron-bert": bert(segments, head, model={"embedding_norm": False, "final_norm": True}),
    "mra": bert(segments, head, rows=_offset(2)),
    "yoso": bert(segments, head, rows=_offset(2)),
    "roberta-prelayernorm": bert(segments, head, model={"final_norm": True}),
    "roc_bert": bert(segments, head, _roc),
    "roformer": bert(segments, head, _roformer, rows=_no_rows, layer=_same_width),
    "xlm-roberta-xl": bert(segments, head, model={"embedding_norm": False, "final_norm": True}),
    "xmod": bert(segments, head, layer=_adapters),
    "distilbert": bert(
        transform,
        names={"hidden_size": "dim", "intermediate_size": "hidden_dim"},
        model={"encoder": True},
    ),
    "xlm": _XLM,
    "flaubert": _XLM,
    "deberta": bert(segments, head, rows=_deberta_rows, facts={"output_bias": True}, layer=_deberta),
    "deberta-v2": bert(segments, head, rows=_deberta_rows, layer=_deberta_plain),
    "jina_embeddings_v3": bert(segments, head, rows=_no_rows),
    "layoutlm": bert(segments, head, pooler, _layout),
    "longformer": bert(segments, head, layer=_second_projections),
    "luke": bert(segments, transform, pooler, _luke, layer=_luke_queries, model={"tied_embeddings": False}),
    "mpnet": bert(head, _buckets),
    "tapas": bert(head, _tapas),
    "gte": bert(segments, transform, rows=_no_rows, gated=True, mlp_bias=False, layer=_down_bias),
    "nomic_bert": bert(segments, transform, rows=_no_rows, facts={}, gated=True, mlp_bias=False),
    "nystromformer": bert(
        segments,
        head,
        rows=_offset(2),
        layer=lambda c: c.heads * (c.count("conv_kernel_size") or 0),
    ),
    "rembert": bert(
        _rembert,
        rows=_no_rows,
        model={
            "embedding_norm": False,
            "tied_embeddings": True,
            "embedding_size": lambda c: c.size("input_embedding_size"),
        },
    ),
    "git": bert(model={"encoder": False}),
    "modernbert": _modernbert(encoder=True),
    "modernbert-decoder": _modernbert(encoder=False),
    "eurobert": Family(
        **_LLAMA_ENCODER, model={"encoder": True, "lm_head_bias": lambda c: c.flag("mlp_bias")}
    ),
    "esmc": Family(
        **{**_LLAMA_ENCODER, "facts": {**FLAGGED, "qk_norm": lambda c: 2 * c.hidden}},
        model={
            **LAYERNORM,
            "encoder": True,
            "tied_embeddings": False,
            "lm_head_bias": True,
            # The last norm has no bias.
            "final_norm": False,
            "other_params": lambda c: transform(c) + c.hidden,
        },
    ),
    "ultrabert": Family(
        **_LLAMA_ENCODER,
        pattern=one_in(3),
        model={"encoder": True, "other_params": lambda c: 2 * c.size("prediction_head_size") * c.hidden},
    ),
    "xlnet": Family(  # arXiv 1906.08237: relative positions and segments in every layer
        defaults=None,
        gated=False,
        mlp_bias=True,
        names={"head_dim": "d_head", "intermediate_size": "d_inner"},
        other_params=lambda c: (c.hidden + 5) * c.heads * c.head_dim,
        model={
            **LAYERNORM,
            "final_norm": False,
            "lm_head_bias": True,
            "other_params": lambda c: c.hidden,
        },
    ),
}
