"""How many operations the host launches one by one in a layer whose pass is not replayed from a captured graph.

Counted from the layers of vLLM, SGLang and TensorRT-LLM (their Python of 2025): one call of a kernel's wrapper each. Prefills
run that way, since their lengths are not captured, and a short prompt of a model of many small operations waits for the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from llm_perf.config.layers.recurrent import Recurrent
from llm_perf.config.model import LayerGroup, Mixer
from llm_perf.counts.products import Product, routed_experts
from llm_perf.systems.costs import part_of
from llm_perf.systems.format_kernels import one_module

if TYPE_CHECKING:
    from llm_perf.systems.forward import Forward

_ATTENTION: Final = 3
"""Rotary embedding, writing the cache, attention."""
_LATENT: Final = 12
"""The same, norms of both latents, and five copies and splits that take queries and latents apart and put keys together."""
_RECURRENT: Final = 18
"""States are looked up and written back (3), inputs taken apart (4), a convolution, gates, norms of keys and of queries, six
kernels of a scan in chunks (flash-linear-attention's gated delta rule), a gated norm."""
_ROUTING: Final = 5
"""Choosing experts, sorting rows by expert, their copies, what stands between both products, adding up."""
_PRODUCTS_OF_EXPERT: Final = 2
"""Gate and up together, and down."""
_SHARED: Final = 3
"""Experts that every token goes through run on a stream of their own: it forks and joins, and both sums are added."""


def eager_operations(forward: Forward) -> float:
    """Operations of all layers in one pass: products, scaling of what they narrow, mixers, norms, routing, collectives."""
    found = 0.0
    for group, products in forward.groups:
        one_call = _in_one_call(forward, group, products)
        launched = [product for product in products if not (one_call and product.is_expert)]
        ops = float(group.norms + len(launched) + forward.narrowing_products(launched))
        ops += sum(_of_mixer(mixer) for mixer in group.attention.parts)
        if routed_experts(group):
            ops += 1 if one_call else _ROUTING
        if any(_dense(product) for product in products):
            ops += 1 + (_SHARED if routed_experts(group) else 0)  # the activation function
        ops += forward.exchanges.reductions(group) if forward.tp > 1 else 0
        found += group.count * ops
    return found


def composed_mixtures(forward: Forward) -> int:
    """Mixtures of all layers that Python puts together of several kernels, anew in each pass that is not captured.

    With ``one_call_moe`` those that one module of kernels works off are none: it takes the router's logits and does all else.
    """
    return sum(
        group.count
        for group, products in forward.groups
        if routed_experts(group) and not _in_one_call(forward, group, products)
    )


def scans(forward: Forward) -> int:
    """Layers that scan the tokens of a prefill in chunks, by kernels of flash-linear-attention: not Mamba's."""
    return sum(
        group.count
        for group, _ in forward.groups
        if any(
            isinstance(part, Recurrent) and part.scan_kernels == "chunked" for part in group.attention.parts
        )
    )


def _in_one_call(forward: Forward, group: LayerGroup, products: Sequence[Product]) -> bool:
    """Whether the experts of a layer run by one call, which takes the router's logits and does all else."""
    constants, memory = forward.constants, forward.scenario.gpu.has_tensor_memory
    return constants["one_call_moe"] > 0 and one_module(
        constants, forward.expert_kinds(products), memory, group.mlp
    )


def more_kernels(group: LayerGroup, products: Sequence[Product]) -> int:
    """Kernels of a layer beyond a plain one's: what takes latents apart, what joins experts that every token goes through.

    They run from captured graphs as well.
    """
    latents = sum(_LATENT - _ATTENTION for mixer in group.attention.parts if _of_mixer(mixer) == _LATENT)
    shared = routed_experts(group) and any(_dense(product) for product in products)
    return latents + (_SHARED if shared else 0)


def kernels_of_experts(products: Sequence[Product]) -> float:
    """Kernels of a layer's experts on one rank that run one after the other: two for each, most of which find no token."""
    return _PRODUCTS_OF_EXPERT * experts_held(products)


def experts_held(products: Sequence[Product]) -> float:
    """Experts of a layer that one rank holds."""
    return max((product.copies for product in products if product.is_expert), default=0)


def _dense(product: Product) -> bool:
    """Whether it is of an MLP that every token goes through."""
    return part_of(product.op) == "mlp" and not product.is_expert and product.op != "router"


def _of_mixer(mixer: Mixer) -> int:
    if mixer.recurrent:
        return _RECURRENT
    return _LATENT if mixer.assembled_elements() else _ATTENTION
