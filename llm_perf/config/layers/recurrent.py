"""What all layers share that keep a state of fixed size instead of keys and values."""

import math
from abc import abstractmethod
from typing import Literal

from llm_perf.config.arrays import Number
from llm_perf.config.layers.base import Mixer

SCAN_CHUNK = 256
"""Tokens that a scan over a prompt works on at once (Mamba-2's kernels, arXiv 2405.21060, section 6)."""
STATE_BITS = 16
_CHANNELS_OF_A_BLOCK = 64


class Recurrent(Mixer):
    """A layer that scans tokens into a state: one thing to attend to, from the first token on, nothing kept per token.

    A convolution over the latest tokens keeps as many of them as its kernel has taps: so do the caches of transformers
    and of Mamba's own code. vLLM and SGLang keep one fewer, which is below 1 % of the state of a Mamba-2 layer.
    """

    @property
    def recurrent(self) -> bool:
        """It scans."""
        return True

    @property
    def scan_kernels(self) -> Literal["mamba", "chunked"]:
        """Whose kernels train it: Mamba-2's own, or those of chunked rules (flash-linear-attention)."""
        return "chunked"

    @property
    def num_kv_heads(self) -> int:
        """Every head has its state."""
        return self.num_heads

    @property
    def saturates_at(self) -> int:
        """One: there is one state, from the first token on."""
        return 1

    def keys_read(self, new_tokens: Number, cached: Number) -> Number:  # noqa: ARG002 - one interface
        """The state is moved once per chunk of a scan."""
        return -(-new_tokens // SCAN_CHUNK)

    def cache_elements_per_token(self, tp: int = 1) -> float:  # noqa: ARG002 - one interface
        """None: the state holds what came before."""
        return 0.0

    def kept_bits(self, cache_bits: float, state_bits: float = STATE_BITS) -> float:
        """A state is as wide as the engine keeps it, 16 bits at least: formats of caches are for keys and values."""
        return max(cache_bits, state_bits)

    @property
    @abstractmethod
    def state_size_per_sequence(self) -> int:
        """Elements of one sequence's state, all heads, what a convolution keeps included."""

    def state_elements_per_sequence(self, tp: int = 1) -> float:
        """One rank's heads of the state."""
        return self.state_size_per_sequence / tp

    @property
    @abstractmethod
    def scanned_size(self) -> int:
        """Elements per token that enter the convolution or the scan."""

    def key_value_elements(self, tp: int = 1) -> float:
        """What enters the scan."""
        return self.scanned_size / tp

    def live_elements_per_token(self, tp: int = 1) -> float:
        """What enters the scan, and the gate, which is as wide as what the layer returns."""
        return (self.scanned_size + self.num_heads * self.value_dim) / tp


def outer_product_flops(
    heads: float, key_dim: int, value_dim: int, absorbed: bool, delta_rule: bool = False
) -> float:
    """FLOPs of one token through states of ``key_dim`` x ``value_dim``: by themselves (``absorbed``) or in a scan of chunks.

    A step decays the state, adds the outer product of key and value, and reads it with the query: 5 per element;
    the delta rule reads it with the key first, 2 more. A scan has 4 per element, and attention inside its chunk, of
    which half is causal, twice with the delta rule's inverse.
    """
    state = key_dim * value_dim
    if absorbed:
        return heads * ((7 if delta_rule else 5) * state)
    inside = SCAN_CHUNK * (key_dim + value_dim)
    return heads * (4 * state + (2 if delta_rule else 1) * inside)


def channel_block(channels: int) -> int:
    """Channels without heads that a kernel works on at once, which stand for a head: tensor parallelism divides the rest."""
    return math.gcd(channels, _CHANNELS_OF_A_BLOCK)
