"""What the published performance recipes of NVIDIA-NeMo/Megatron-Bridge set beside what its tables print.

A table of results prints sizes and precision; how experts' tokens are sent, what is launched as CUDA graphs, what is
recomputed and whether the experts' kernels are fused stands in the recipe of that release: scripts/performance/configs of
the tags v0.2.0 (container 25.11), v0.3.0 and v0.3.1 (26.02, 26.02.01), v0.4.0 to v0.4.2 (26.04, 26.04.01), v0.5.0 and
v0.5.1 (26.06, 26.06.01), and src/megatron/bridge/perf_recipes of v0.6.0 (26.08).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Release = tuple[int, ...]
"""Year, month and patch of a container; a bound without the last means all patches."""
_FIRST: Final[Release] = (0,)
_LAST: Final[Release] = (99,)


@dataclass(frozen=True)
class Recipe:
    """Fields of a training plan that the recipes of a model set, from one release to another; None is all there are.

    A model has the names of the tables and of its checkpoint.
    """

    model: frozenset[str]
    sets: Mapping[str, Any]
    gpus: frozenset[str] | None = None
    precisions: frozenset[str] | None = None
    first: Release = _FIRST
    last: Release = _LAST
    source: str = field(default="", compare=False)

    def holds(self, model: str, gpu: str, precision: str, release: Release) -> bool:
        """Whether a run is one of those."""
        return (
            model in self.model
            and (self.gpus is None or gpu in self.gpus)
            and (self.precisions is None or precision in self.precisions)
            and self.first <= release
            and release[: len(self.last)] <= self.last
        )


_RACKS: Final = frozenset({"GB200-192GB", "GB300"})
_GB200, _GB300 = frozenset({"GB200-192GB"}), frozenset({"GB300"})
_B200, _B300, _H100 = frozenset({"B200-180GB"}), frozenset({"B300-SXM"}), frozenset({"H100-SXM-80GB"})
_MX, _FP8, _FP4 = frozenset({"mxfp8"}), frozenset({"fp8"}), frozenset({"nvfp4"})
_FLEX: Final = {"moe_dispatcher": "flex"}
_GRAPHS: Final = {"cuda_graphs": "layers"}
_WHOLE: Final = {
    "cuda_graphs": "iteration",
    "fused_experts": True,
    "moe_overlap": True,
    "fp8_attention": True,
    "recompute_modules": (),
}
_QWEN = frozenset({"Qwen3_235B_a22B", "Qwen/Qwen3-235B-A22B"})
_OSS = frozenset({"GPT OSS 120B", "openai/gpt-oss-120b"})
_KIMI = frozenset({"Kimi_K2", "moonshotai/Kimi-K2-Instruct"})
_NANO = frozenset({"Nemotron_3_Nano", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B"})
_LIGHTNING = frozenset({"Nemotron_3_5_Lightning"})
_SUPER = frozenset({"Nemotron_3_Super", "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B"})
_ULTRA = frozenset({"Nemotron_3_Ultra", "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B"})
_ALL = _QWEN | _OSS | _KIMI | _NANO | _LIGHTNING | _SUPER | _ULTRA
_WIDE_OF_SUPER: Final = 15
"""Blocks that Nemotron 3 Super's NVFP4 recipe leaves in 16 bit: the first and the last 14 of 88 (mixed_precision.py)."""

RECIPES: Final[tuple[Recipe, ...]] = (
    # set_…_common_configs of every model: grad_reduce_in_fp32 is off, so that gradients are added up and reduced in 16 bits.
    Recipe(_ALL, {"gradient_dtype_bytes": 2}),
    Recipe(_QWEN, _FLEX | _GRAPHS, _RACKS),
    Recipe(_QWEN, {"moe_overlap": True}, _H100),
    Recipe(_QWEN, {"moe_overlap": True, "overlap_param_gather": False}, _B200, last=(25, 11)),
    Recipe(_QWEN, {"moe_overlap": True}, _B300, last=(26, 2, 0)),
    # v0.4.2 was the first to send tokens so on B300.
    Recipe(_QWEN, _FLEX, _B300, first=(26, 4, 1)),
    Recipe(_QWEN, _WHOLE, _RACKS, _MX, first=(26, 6)),
    Recipe(_OSS, _GRAPHS, _GB300, first=(26, 2)),
    Recipe(_OSS, _GRAPHS, _B300),
    Recipe(_OSS, {"recompute_modules": ("layernorm", "moe_act")}, _GB200 | _B200 | _H100),
    Recipe(_OSS, {"moe_overlap": True}, _GB200, first=(26, 4)),
    # v0.4.0 and v0.4.1 alone; v0.4.2 takes it back.
    Recipe(_OSS, _FLEX, _GB200 | _B200, first=(26, 4), last=(26, 4, 0)),
    Recipe(_OSS, _FLEX, _B300, first=(26, 4)),
    Recipe(_OSS, _FLEX | _WHOLE, _RACKS, _MX, first=(26, 6)),
    Recipe(_KIMI, _FLEX | {"optimizer": "muon", "overlap_param_gather": False}),
    Recipe(_NANO, _FLEX | _GRAPHS),
    # Of H100 only scans are in graphs.
    Recipe(
        _NANO,
        {"cuda_graphs": "mixers", "recompute_modules": ("core_attn", "layernorm", "moe")},
        _H100,
        _FP8,
    ),
    Recipe(_LIGHTNING, _FLEX | _GRAPHS | {"mtp_depth": 2}),
    Recipe(_SUPER, _FLEX | _GRAPHS | {"mtp_depth": 2}),
    Recipe(_SUPER, {"wide_layers": _WIDE_OF_SUPER}, precisions=_FP4),
    Recipe(_SUPER, {"cuda_graphs": "none", "recompute_modules": ("layernorm", "moe_act")}, _B200, _MX),
    Recipe(_SUPER, {"recompute_modules": ("layernorm", "moe_act")}, _B300, _FP4),
    Recipe(_ULTRA, _FLEX | {"mtp_depth": 2, "ds_zero": 3, "shard_size": 64, "fused_experts": True}),
)
"""All of them, later ones over earlier ones."""


def release_of(framework: str) -> Release | None:
    """Year, month and patch of a Megatron-Bridge container; None of any other framework."""
    version = re.match(r"megatron-bridge\D*(\d+)\.(\d+)(?:\.(\d+))?", framework.lower())
    return None if version is None else tuple(int(part or 0) for part in version.groups())


def recipe_of(framework: str, model: str, gpu: str, precision: str) -> dict[str, Any]:
    """Fields of a plan that a run's recipe sets; none of a run of another framework or without a known recipe."""
    release = release_of(framework)
    found: dict[str, Any] = {}
    if release is not None:
        for recipe in RECIPES:
            if recipe.holds(model, gpu, precision, release):
                found |= recipe.sets
    return found
