"""Which number format each matrix of a model has, and the bytes of a whole checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache

from llm_perf.config.formats import FORMATS, MatrixFormat, NumberFormat, WeightFormats
from llm_perf.config.model import LatentAttention, LayerGroup, ModelConfig
from llm_perf.config.quantization import Quantization
from llm_perf.counts.gguf_types import MixtureRule
from llm_perf.counts.linears import Linear, layer_linears
from llm_perf.counts.parameters import (
    embedding_params,
    layer_vector_params,
    lm_head_params,
    row_params,
    token_table_params,
)

_WIDE = MatrixFormat()
_MTP_TABLES = 2
"""DeepSeek-V3's multi-token prediction module stores the token table and the head once more (its technical report, 2.2)."""


@lru_cache(maxsize=256)  # every question about a model asks, and patterns of module names are slow to match
def resolve_formats(model: ModelConfig, quantization: Quantization | None, why: str = "") -> WeightFormats:
    """The format of every matrix under a quantisation; None means 16 bits."""
    if quantization is None:
        rows = tuple(tuple(_WIDE for _ in layer_linears(g, model.hidden_size)) for g in model.layer_groups)
        return WeightFormats("bf16", why, rows, _WIDE, _WIDE)
    if quantization.mixture is not None:
        return _mixture(model, quantization.mixture, why)
    format_of = quantization.reader()

    def of(linear: Linear, names: tuple[str, ...]) -> MatrixFormat:
        if linear.op == "router" or linear.wide or (quantization.experts_only and linear.op[:6] != "expert"):
            return _WIDE
        found = format_of(names)
        return _WIDE if found is None else MatrixFormat(found.stored_bits, found.kernels, found.name)

    rows = tuple(
        tuple(
            _mean(of(linear, _module_names(layer, group, index, linear)) for layer in layers)
            for index, linear in enumerate(layer_linears(group, model.hidden_size))
        )
        for group, layers in zip(
            model.layer_groups, _layers_of(model, quantization.names_layers), strict=True
        )
    )
    named = FORMATS.get(quantization.name)
    if named is not None and named.tables:
        table = MatrixFormat(named.stored_bits, named.kernels, named.name)
        return WeightFormats(quantization.name, why, rows, table, table)
    if quantization.head is not None:
        head: NumberFormat | None = quantization.head.number_format
    else:
        tied = model.tied_embeddings or quantization.experts_only
        head = None if tied else format_of(("lm_head", "output"))
    stored = _WIDE if head is None else MatrixFormat(head.stored_bits, head.kernels, head.name)
    return WeightFormats(quantization.name, why, rows, _WIDE, stored)


def _layers_of(model: ModelConfig, apart: bool) -> list[range]:
    """Indices of the layers that a group may stand for.

    Groups that differ in attention only alternate, and share what is said of all layers; others follow each other.
    """
    groups = model.layer_groups
    if not apart:
        return [range(1) for _ in groups]
    if all(group.mlp == groups[0].mlp for group in groups):
        return [range(model.num_layers) for _ in groups]
    ends = [sum(group.count for group in groups[: index + 1]) for index in range(len(groups))]
    return [range(end - group.count, end) for end, group in zip(ends, groups, strict=True)]


def _mean(formats: Iterable[MatrixFormat]) -> MatrixFormat:
    """The mean width over layers, with the kernels and the name that most of them have."""
    found = Counter(formats)
    most = found.most_common(1)[0][0]
    bits = sum(count * entry.bits for entry, count in found.items()) / sum(found.values())
    return MatrixFormat(bits, most.kernels, most.name)


_FEED_FORWARD = {
    3: (("gate_proj", "w1", "gate_up_proj"), ("up_proj", "w3", "gate_up_proj"), ("down_proj", "w2")),
    2: (("up_proj", "fc1", "dense_h_to_4h", "c_fc"), ("down_proj", "fc2", "dense_4h_to_h", "c_proj")),
}
"""Names of the matrices of a feed-forward block, by how many these are."""


def _module_names(layer: int, group: LayerGroup, index: int, linear: Linear) -> tuple[str, ...]:
    """Names that checkpoints give a matrix, from ``layers`` on; of experts, those of the first."""
    at = f"layers.{layer}"
    if linear.modules:
        return tuple(f"{at}.{module}" for module in linear.modules)
    if linear.op == "router":
        return (f"{at}.mlp.gate", f"{at}.mlp.router", f"{at}.block_sparse_moe.gate")
    if linear.op.startswith("latent"):
        return (f"{at}.mixer.fc{1 if linear.op == 'latent_down' else 2}_latent_proj",)
    ups = 2 if group.mlp.gated else 1
    if "_" in linear.op and linear.op.split("_")[0] in ("mlp", "expert", "shared"):
        up = f"{linear.op.rsplit('_', 1)[0]}_up"
        first = next((i for i, other in enumerate(layer_linears(group, 1)) if other.op == up), index)
        part = ups if linear.op.endswith("down") else min(index - first, ups - 1)
        names = _FEED_FORWARD[ups + 1][part]
        parents = {
            "mlp": ("mlp", "feed_forward"),
            "expert": ("mlp.experts.0", "block_sparse_moe.experts.0", "mlp.experts"),
            "shared": ("mlp.shared_experts", "mlp.shared_expert"),
        }[linear.op.split("_")[0]]
        return tuple(f"{at}.{parent}.{name}" for parent in parents for name in names)
    return tuple(f"{at}.{name}" for name in _attention_names(group, index, linear))


def _attention_names(group: LayerGroup, index: int, linear: Linear) -> tuple[str, ...]:
    op, _, member = linear.op.partition(":")
    attention = group.attention.parts[int(member or 1) - 1]
    if attention.recurrent:
        last = op == "attention_output"
        return (
            ("mixer.out_proj", "mamba.out_proj", "linear_attn.out_proj")
            if last
            else ("mixer.in_proj", "mamba.in_proj", "linear_attn.in_proj_qkvz")
        )
    if op == "attention_output":
        return ("self_attn.o_proj", "self_attn.out_proj", "attn.o_proj")
    if isinstance(attention, LatentAttention):
        if linear.op == "q":
            return ("self_attn.q_proj",) if attention.q_lora_rank is None else ("self_attn.q_b_proj",)
        if linear.op == "kv_up":
            return ("self_attn.kv_b_proj",)
        queries = attention.q_lora_rank is not None and index == 0
        return ("self_attn.q_a_proj",) if queries else ("self_attn.kv_a_proj_with_mqa",)
    return (
        f"self_attn.{'qkv'[min(index, 2)]}_proj",
        "self_attn.qkv_proj",
        f"attn.{'qkv'[min(index, 2)]}_proj",
    )


def _mixture(model: ModelConfig, mixture: str, why: str) -> WeightFormats:
    """A llama.cpp file: its rule says the type of each tensor; norms, biases and routers are 32 bit."""
    rule = MixtureRule(model, mixture)
    rows = tuple(
        tuple(
            _mean(rule.matrix(layer, group, index, linear) for layer in layers)
            for index, linear in enumerate(layer_linears(group, model.hidden_size))
        )
        for group, layers in zip(model.layer_groups, _layers_of(model, apart=True), strict=True)
    )
    return WeightFormats(mixture, why, rows, rule.embedding(), rule.head(), vector_bits=32.0)


def checkpoint_bytes(model: ModelConfig, formats: WeightFormats, mtp_layers: int = 0) -> float:
    """Bytes of all tensors of a checkpoint.

    Args:
        model: Its shapes.
        formats: The format of every matrix.
        mtp_layers: Multi-token prediction modules that the file holds beside the model (DeepSeek-V3: 1), each a layer
            like the last, a projection of two hidden states to one, three norms, and its copies of table and head.
    """
    total = 0.0
    for group, row in zip(model.layer_groups, formats.layers, strict=True):
        total += group.count * layer_bytes(model, group, row, formats.vector_bits)
    table = token_table_params(model)
    head = 0 if model.tied_embeddings else table
    rows = row_params(model)
    total += rows * formats.embedding.bits / 8 + head * formats.head.bits / 8
    rest = embedding_params(model) - rows + lm_head_params(model) - head
    total += rest * formats.vector_bits / 8
    if mtp_layers:
        layer = layer_bytes(model, model.layer_groups[-1], formats.layers[-1], formats.vector_bits)
        wide = 2 * model.hidden_size**2 + 3 * model.hidden_size + _MTP_TABLES * table
        total += mtp_layers * (layer + wide * formats.vector_bits / 8)
    return total


_SAID_DIFFERENCE = 0.01


@lru_cache(maxsize=256)
def checkpoint_difference(model: ModelConfig) -> str | None:
    """A sentence where the checkpoint's own size is further than 1 % from what is counted; None where it is not."""
    if model.checkpoint_bytes is None:
        return None
    formats = model.stored_formats or resolve_formats(model, model.quantization)
    counted = checkpoint_bytes(model, formats, model.mtp_layers)
    if model.stored_formats is None and model.quantization is None and model.released_dtype == "float32":
        counted *= 2
    share = model.checkpoint_bytes / counted - 1
    if abs(share) <= _SAID_DIFFERENCE:
        return None
    return (
        f"the checkpoint's tensors take {model.checkpoint_bytes / 1e9:,.2f} GB, {counted / 1e9:,.2f} GB are counted "
        f"({share:+.1%}): it holds something that is not counted, or another format than its config says"
    )


def layer_bytes(
    model: ModelConfig,
    group: LayerGroup,
    row: tuple[MatrixFormat, ...],
    vector_bits: float,
    weights_of: Callable[[Linear], float] | None = None,
    params: float | None = None,
) -> float:
    """Bytes of one layer whose matrices have the formats of ``row``; whatever is no matrix has ``vector_bits``.

    ``weights_of`` and ``params`` say how much of a matrix, and of all elements, one rank holds; all of them otherwise.
    """
    linears = layer_linears(group, model.hidden_size)
    held = weights_of or (lambda linear: float(linear.copies * linear.weights))
    if params is None:
        params = float(sum(linear.params for linear in linears) + layer_vector_params(model, group))
    matrices = [(held(linear), entry.bits) for linear, entry in zip(linears, row, strict=True)]
    vectors = params - sum(weights for weights, _ in matrices)
    return (sum(weights * bits for weights, bits in matrices) + vectors * vector_bits) / 8
