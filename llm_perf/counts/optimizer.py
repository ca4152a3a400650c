"""Optimizer state and gradients in training, and what each ZeRO stage shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm_perf.config.parallelism import DSZeRO
from llm_perf.counts.arrays import Number
from llm_perf.errors import UnknownNameError

ADAM_MOMENTS_BYTES = 8
"""Bytes per parameter of Adam's momentum and variance in 32 bits (Kingma and Ba, arXiv 1412.6980)."""


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Bytes per trained parameter that an optimizer keeps beside the master weights, and its arithmetic.

    ``flops`` per parameter and step count multiplies and adds of one update, which memory traffic hides except on a
    CPU. ``matrix_products``: products of five Newton-Schulz iterations on every matrix (Muon). ``paged``: the state is
    unified memory, which moves to the host where the GPU has no room for it.
    """

    name: str
    state_bytes: float
    flops: float
    source: str
    matrix_products: int = 0
    paged: bool = False


OPTIMIZERS: dict[str, Optimizer] = {
    optimizer.name: optimizer
    for optimizer in (
        Optimizer("adam", ADAM_MOMENTS_BYTES, 18, "two 32-bit moments (Kingma and Ba, arXiv 1412.6980)"),
        Optimizer("adamw", ADAM_MOMENTS_BYTES, 20, "two 32-bit moments (Loshchilov and Hutter, arXiv 1711.05101)"),
        Optimizer("adam8bit", 2 + 2 * 4 / 256, 20, "two 8-bit moments, a 32-bit scale per block of 256 (bitsandbytes)"),
        Optimizer("adam4bit", 1 + 2 * 4 / 128, 20, "two 4-bit moments, a 32-bit scale per block of 128 (torchao)"),
        Optimizer("paged_adamw", ADAM_MOMENTS_BYTES, 20, "as adamw, in unified memory (bitsandbytes)", paged=True),
        Optimizer("paged_adam8bit", 2 + 2 * 4 / 256, 20, "as adam8bit, in unified memory (bitsandbytes)", paged=True),
        Optimizer("lion", 4, 9, "one 32-bit moment (Chen et al., arXiv 2302.06675)"),
        Optimizer("lion8bit", 1 + 4 / 256, 9, "one 8-bit moment, a 32-bit scale per block of 256 (bitsandbytes)"),
        Optimizer("adafactor", 0.004, 12, "a row and a column of 32-bit factors per matrix of some 2,000 rows, no "
                  "first moment (Shazeer and Stern, arXiv 1804.04235)"),
        Optimizer("muon", 4, 12, "one 32-bit momentum, orthogonalised by Newton-Schulz (Jordan et al., 2024)", 15),
        Optimizer("sgd", 0, 2, "no state"),
        Optimizer("sgd_momentum", 4, 4, "one 32-bit momentum"),
    )
}  # fmt: skip
"""Optimizers by name. Muon's embeddings and vectors use AdamW in practice: a small share, counted as momentum."""

_OPTIMIZER_ALIASES = {
    "8bitadam": "adam8bit",
    "adamw_8bit": "adam8bit",
    "adamw4bit": "adam4bit",
    "adamw_4bit": "adam4bit",
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "fused_adam": "adam",
    "adamw_bnb_8bit": "adam8bit",
    "adamw8bit": "adam8bit",
    "pagedadamw8bit": "paged_adam8bit",
    "paged_adamw_8bit": "paged_adam8bit",
    "pagedadamw": "paged_adamw",
    "paged_adamw_32bit": "paged_adamw",
    "momentum": "sgd_momentum",
}


def optimizer_by_name(name: str) -> Optimizer:
    """An optimizer; case, blanks, ``-`` and ``_`` do not matter.

    Raises:
        UnknownNameError: no such optimizer; the nearest names are listed.
    """
    plain = name.lower().replace("-", "_").replace(" ", "_")
    plain = _OPTIMIZER_ALIASES.get(plain, _OPTIMIZER_ALIASES.get(plain.replace("_", ""), plain))
    for known in OPTIMIZERS.values():
        if plain in (known.name, known.name.replace("_", "")) or plain.replace("_", "") == known.name:
            return known
    raise UnknownNameError("optimizer", name, OPTIMIZERS)


Sharded = Literal["optimizer", "gradients", "weights"]

_FIRST_STAGE: dict[Sharded, int] = {"optimizer": 1, "gradients": 2, "weights": 3}
"""The ZeRO stage from which on each is sharded (Rajbhandari et al., arXiv 1910.02054, section 5)."""


def zero_shards(what: Sharded, stage: DSZeRO, ranks: float) -> float:
    """Ways in which ``ranks`` ranks with equal weights share one kind of state under a ZeRO stage."""
    return ranks if stage.value >= _FIRST_STAGE[what] else 1


def optimizer_state_bytes(
    params: Number, master_weights_bytes: Number, other_bytes: Number | None = None
) -> Number:
    """Bytes of master weights and of what else the optimizer keeps; None means Adam's two moments."""
    return params * (master_weights_bytes + (ADAM_MOMENTS_BYTES if other_bytes is None else other_bytes))


def gradient_bytes(params: Number, master_weights_bytes: Number) -> Number:
    """Bytes of gradients, kept as wide as the master weights that they are applied to."""
    return params * master_weights_bytes
