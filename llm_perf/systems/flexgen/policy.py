"""FlexGen's policy: how a batch is cut, where tensors are told to live, what is compressed, where attention runs.

Names and rules are those of FlexGen (arXiv 2303.06865; FMInference/FlexGen, flexgen/flex_opt.py). Every field of a
policy may be an array: a search evaluates thousands of policies in one call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm_perf.config.dtype import DtypeConfig, stored_bits
from llm_perf.config.scenario import Scenario
from llm_perf.config.workload import OffloadConfig, Shares
from llm_perf.counts.arrays import Number
from llm_perf.errors import SpecError
from llm_perf.systems.base import TierShares

GROUP_SIZE = 64
"""Elements that share a scale and a minimum in FlexGen's 4-bit format."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One way of running, or arrays of them.

    ``gpu_batch`` sequences go through a layer together, ``num_gpu_batches`` of them one after the other before the
    next layer. ``weights``, ``kv_cache`` and ``hidden`` are the stated shares; whole tensors are placed by them.
    ``weight_bytes`` and ``kv_bytes`` are stored bytes per element, less than 2 where compressed. ``sparsity`` is the
    share of values that attention reads. ``micro_batches`` fill a pipeline of several GPUs.
    """

    gpu_batch: Number
    num_gpu_batches: Number
    weights: TierShares
    kv_cache: TierShares
    hidden: TierShares
    weight_bytes: Number = 2.0
    kv_bytes: Number = 2.0
    cpu_attention: Number = False
    overlap: Number = True
    pin_weights: Number = True
    sparsity: Number = 1.0
    micro_batches: Number = 1

    @property
    def batch(self) -> Number:
        """Sequences of the whole deployment."""
        return self.gpu_batch * self.num_gpu_batches * self.micro_batches

    @property
    def compress_weights(self) -> Number:
        """Whether weights are stored in 4 bits."""
        return self.weight_bytes < 2

    @property
    def compress_cache(self) -> Number:
        """Whether the cache is stored in 4 bits."""
        return self.kv_bytes < 2

    @property
    def kv_read_share(self) -> Number:
        """Share of the cache that attention reads: all keys, and of the values those with the largest weights."""
        return (1 + self.sparsity) / 2


def parse_percent(text: str) -> tuple[Shares, Shares, Shares]:
    """Shares of weights, cache and hidden states from FlexGen's six percentages "wg wc cg cc hg hc".

    What is missing to 100 in each pair is on disk.

    Raises:
        SpecError: not six numbers from 0 to 100, or a pair that sums to more than 100.
    """
    words = text.replace(",", " ").split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != 6:
        raise SpecError(f'percent must be six numbers "wg wc cg cc hg hc", got {text!r}')
    wg, wc, cg, cc, hg, hc = numbers
    return (
        _pair("weights (wg wc)", wg, wc),
        _pair("cache (cg cc)", cg, cc),
        _pair("hidden states (hg hc)", hg, hc),
    )


def _pair(name: str, gpu: float, cpu: float) -> Shares:
    for value in (gpu, cpu):
        if not 0 <= value <= 100:
            raise SpecError(f"percent of {name} must be from 0 to 100, got {value:g}")
    if gpu + cpu > 100 + 1e-9:
        raise SpecError(
            f"percent of {name} must not sum to more than 100, got {gpu:g} + {cpu:g} = {gpu + cpu:g}"
        )
    return Shares(gpu=gpu / 100, cpu=cpu / 100, nvme=max(0.0, round(1 - gpu / 100 - cpu / 100, 12)))


def attention_on_cpu(offload: OffloadConfig, compressed: bool, cached_on_gpu: bool) -> bool:
    """Where decode attention runs: as told; if not told, where FlexGen's own benchmark suite runs it.

    The suite computes attention on the CPU wherever an uncompressed cache lies off the GPU
    (benchmark/flexgen/bench_suite.py passes --cpu exactly there).
    """
    device: Literal["gpu", "cpu"] | None = offload.attention_device
    if device is not None:
        return device == "cpu" and not cached_on_gpu
    return not compressed and not cached_on_gpu


def check_policy(scenario: Scenario) -> None:
    """Refuse policies that FlexGen does not run.

    Raises:
        SpecError: with what would be possible.
    """
    offload, dtype = scenario.offload, scenario.dtype
    _check_bits(dtype)
    _check_batches(scenario)
    for name, shares in (
        ("weights", offload.weights),
        ("cache", offload.kv_cache),
        ("hidden states", offload.activations),
    ):
        if shares is not None and shares.nvme > 0 and scenario.host.disk is None:
            raise SpecError(f"host {scenario.host.name} has no disk to offload {name} to")
    hidden, cache = offload.activations, offload.kv_cache
    if hidden is not None and max(hidden.gpu, hidden.cpu, hidden.nvme) < 1:
        raise SpecError("system flexgen keeps hidden states in one place: hg 100, hc 100, or neither (disk)")
    if cache is not None and dtype.kv_bits < 16 and max(cache.gpu, cache.cpu, cache.nvme) < 1:
        raise SpecError(
            "system flexgen keeps a compressed cache in one place: cg 100, cc 100, or neither (disk)"
        )
    if offload.attn_sparsity < 1 and dtype.kv_bits < 16:
        raise SpecError("system flexgen has no attention sparsity with a compressed cache")


def _check_bits(dtype: DtypeConfig) -> None:
    for name, bits in (("weights", dtype.weight_bits), ("the cache", dtype.kv_bits)):
        if bits not in (4, 16):
            raise SpecError(f"system flexgen stores {name} in 16 bits or compresses them to 4, not {bits}")
    if dtype.activation_bits != 16:
        raise SpecError(f"system flexgen computes in 16 bits, not {dtype.activation_bits}")


def _check_batches(scenario: Scenario) -> None:
    offload, batch = scenario.offload, scenario.workload.batch_size
    blocks = offload.num_gpu_batches * offload.micro_batches
    micro = f" x {offload.micro_batches} micro_batches" if offload.micro_batches > 1 else ""
    if offload.gpu_batch_size is not None and batch != offload.gpu_batch_size * blocks:
        raise SpecError(
            f"batch_size {batch} is not gpu_batch_size {offload.gpu_batch_size} x num_gpu_batches "
            f"{offload.num_gpu_batches}{micro} = {offload.gpu_batch_size * blocks}"
        )
    if batch % blocks:
        raise SpecError(
            f"batch_size {batch} is not a multiple of num_gpu_batches {offload.num_gpu_batches}{micro}"
        )


def bytes_per_element(bits: int, group_size: int | None) -> float:
    """Stored bytes of one element: 2, or 4 bits with the scale and minimum of its group."""
    return 2.0 if bits >= 16 else stored_bits(bits, group_size or GROUP_SIZE) / 8


def stated_policy(
    scenario: Scenario, places: tuple[TierShares, ...], gpu_batch: Number, num_gpu_batches: Number
) -> Policy:
    """The policy of a scenario once its placement and the cut of its batch are known."""
    weights, kv, hidden = places
    offload, dtype = scenario.offload, scenario.dtype
    compressed = dtype.kv_bits < 16
    if hasattr(kv.gpu, "shape"):
        wanted = offload.attention_device == "cpu" or (offload.attention_device is None and not compressed)
        on_cpu: Number = (kv.gpu < 1) & wanted
    else:
        on_cpu = attention_on_cpu(offload, compressed, bool(kv.gpu >= 1))
    return Policy(
        gpu_batch=gpu_batch,
        num_gpu_batches=num_gpu_batches,
        weights=weights,
        kv_cache=kv,
        hidden=hidden,
        weight_bytes=bytes_per_element(dtype.weight_bits, dtype.quant_group_size),
        kv_bytes=bytes_per_element(dtype.kv_bits, dtype.kv_group_size),
        cpu_attention=on_cpu,
        overlap=offload.overlap is not False,
        pin_weights=offload.pin_memory,
        sparsity=offload.attn_sparsity,
        micro_batches=offload.micro_batches,
    )
