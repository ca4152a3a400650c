"""Kimi delta attention: gated DeltaNet with a decay per channel."""

from __future__ import annotations

from typing import Literal

from llm_perf.config.base import PositiveInt
from llm_perf.config.layers.linear import Linear
from llm_perf.config.layers.recurrent import Recurrent, outer_product_flops


class KimiDelta(Recurrent):
    """Delta rule whose state decays by channel (Kimi Linear, arXiv 2510.26692): ``num_heads`` states of ``head_dim`` squared.

    A convolution over ``conv_width`` tokens of queries, keys and values comes first. ``gate_rank`` is the inner width of
    the projections of decay and output gate, None where each is one matrix; ``whole_gate``: the output gate is one, the
    decay is not (Kimi K3).
    """

    kind: Literal["kimi_delta"] = "kimi_delta"
    num_heads: PositiveInt
    head_dim: PositiveInt
    conv_width: PositiveInt = 4
    gate_rank: PositiveInt | None = None
    whole_gate: bool = False

    @property
    def vector_elements(self) -> int:
        """Convolution, decay per head and step per channel, norm of the result."""
        inner = self.num_heads * self.head_dim
        return 3 * self.conv_width * inner + self.num_heads + inner + self.head_dim

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Queries, keys, values and write strength; decay and gate, both or neither through a narrow projection; output."""
        inner, rank = self.num_heads * self.head_dim, self.gate_rank
        narrow = 0 if rank is None else 1 if self.whole_gate else 2
        whole = Linear("qkv", (2 - narrow) * inner, hidden, "column", modules=_modules("g_proj"))
        gates: tuple[Linear, ...] = () if narrow == 2 else (whole,)
        if rank is not None:
            gates += (
                Linear(
                    "attention_gates_down", narrow * rank, hidden, "replicated", modules=_modules("f_a_proj")
                ),
                Linear("attention_gates", narrow * inner, rank, "column", modules=_modules("f_b_proj")),
            )
        return (
            Linear("qkv", 3 * inner, hidden, "column", modules=_modules("q_proj")),
            Linear("qkv", self.num_heads, hidden, "column", modules=_modules("b_proj")),
            *gates,
            Linear("attention_output", hidden, inner, "row", modules=_modules("o_proj")),
        )

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:
        """FLOPs of one token: those of the delta rule; a decay per channel is as many products as one per head."""
        return outer_product_flops(
            self.num_heads / tp, self.head_dim, self.head_dim, absorbed, delta_rule=True
        )

    @property
    def state_size_per_sequence(self) -> int:
        """The states of all heads, and the tokens that the convolution keeps."""
        return self.num_heads * self.head_dim**2 + self.conv_width * self.scanned_size

    @property
    def scanned_size(self) -> int:
        """Queries, keys and values."""
        return 3 * self.num_heads * self.head_dim


def _modules(name: str) -> tuple[str, ...]:
    """A module's name in the makers' files and in those of transformers."""
    return f"self_attn.{name}", f"linear_attn.{name}"
