"""What the tables call a system, a GPU and a model, and what the project calls them."""

from __future__ import annotations

import re
from calendar import month_name
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

SYSTEM_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "deepspeed-zero-inference": "zero_inference",
        "vllm (splitwise profile)": "vllm",
        "tensorrt-llm": "tensorrt_llm",
        "gpt-fast": "gpt_fast",
        "llama.cpp": "llama_cpp",
        "lia (cpu-gpu cooperative)": "lia",
        "deepspeed-mii": "deepspeed_mii",
        "deepspeed": "deepspeed_inference",
        "vllm + torchao": "vllm",
        "ktransformers kt-kernel + SGLang": "ktransformers",
        "vllm cpu offload": "vllm",
    }
)
"""What the tables call a system, and what the project calls it; names not listed are the same in both."""

GPU_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        # gpt-fast's board: 330 W is less than an SXM board may draw (400 W) and more than a PCIe one (300 W).
        "A100-80GB (330W limit)": "A100-SXM-80GB",
        "M1 7\u2011Core GPU 8GB": "Apple M1 7c",
        "a100_40gb": "A100-SXM-40GB",
        "a100_80gb": "A100-SXM-80GB",
        "A100-SXM-80GB (Selene)": "A100-SXM-80GB",
        "A100-SXM-80GB (Selene, DGX A100, 8x HDR IB)": "A100-SXM-80GB",
        "MI250X (1 GCD)": "MI250X-GCD-64GB",
        "DGX-H100": "H100-SXM-80GB",
        "DGX-B200": "B200-180GB",
        "DGX-B300": "B300-SXM",
        "DGX-GB200": "GB200-192GB",
        "DGX-GB300": "GB300",
    }
)
"""What the tables call a GPU, and the spec that it is.

A GPU that the source does not name for sure ("H100 (inferred)") and mixed boards have no spec, so they are nobody's
neighbour.
"""

_MODEL_ALIASES = {"llm-analysis/test-13b (GPT-13B)": "llm-analysis/test-13b"}


_VERSIONS_OF_NAMES: Mapping[str, str] = MappingProxyType(
    {"vllm (splitwise profile)": "0.2", "vllm (1cat fork for V100)": "0.7", "vllm + torchao": ""}
)
"""Versions that a name stands for, whatever the column of versions says; "" where that begins with the family's name."""

_WHERE_NONE_IS_SAID: Mapping[str, str] = MappingProxyType(
    {"llama.cpp": "2024-05", "deepspeed-zero-inference": "0.7"}
)
"""Versions that tables without a column of versions are of, where a family's newest is a later one.

ZeRO-Inference without a version is FlexGen's comparison, whose repository holds DeepSpeed 0.7.7 (benchmark/third_party).
"""

_MONTHS = {name: number for number, name in enumerate(month_name) if name}
_MONTH = re.compile(rf"({'|'.join(_MONTHS)}) (20\d\d)")
_VERSION = re.compile(r"\S*?\d[^\s,(+]*")
_BUILD = re.compile(r"(?:build|commit) \w+ \((?:\d+-\d+, )?about (\d[\d.]*)")
_NAMED_BUILDS: Mapping[str, str] = MappingProxyType({"gpt-oss-dev": "1.1"})
"""Images that are no release: TensorRT-LLM's of August 2025 lies between 1.0 and 1.1's release candidates."""


_ENGINE_BEFORE = re.compile(r"^(?:[^\d]*, )?vllm[- ]", re.IGNORECASE)
"""The engine's name before its version, alone or behind a platform's: "vLLM 0.6.5.dev964", "Mango …, vllm-0.9.0.2"."""


def version_of(name: str, printed: str | None) -> str | None:
    """The version that a table means by a system's name and its column of versions; None where neither says one."""
    meant = _VERSIONS_OF_NAMES.get(name)
    if meant:
        return meant
    text = _ENGINE_BEFORE.sub("", (printed or "").removeprefix("about "))
    named = next((version for build, version in _NAMED_BUILDS.items() if text.startswith(build)), None)
    if named is not None:
        return named
    build = _BUILD.match(text)
    if build is not None:
        return build[1]
    found = _MONTH.fullmatch(text) or _VERSION.match(text)
    if found is None:
        return _WHERE_NONE_IS_SAID.get(name)
    return f"{found[2]}-{_MONTHS[found[1]]:02}" if found.re is _MONTH else found[0]


_RELEASED_BEFORE: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "accelerate": (("2025-07", "1.7"),),
        # Tags v0.2.0 of 2025-02-10 to v0.2.4 of 2025-04-02, v0.3 of 2025-04-29; kt-kernel under SGLang since 2025-10.
        "ktransformers": (("2025-04-29", "0.2"), ("2025-10", "0.3")),
    }
)
"""(month, version): what was the newest version before a month, where tables give dates."""


_A_DATE = re.compile(r"20\d\d(?:-|$)")


def version_at(name: str, date: str) -> str | None:
    """The version of a system that was the newest at a date, as far as it matters; None for today's and for no date."""
    known = _RELEASED_BEFORE.get(name, ()) if _A_DATE.match(date) else ()
    return next((version for month, version in known if date < month), None)


def canonical_system(name: str) -> str:
    """The project's name of a system."""
    return SYSTEM_ALIASES.get(name, name)


DIES: Mapping[str, tuple[str, int]] = MappingProxyType(
    {"MI250-128GB": ("MI250X-GCD-64GB", 2), "MI250X-128GB": ("MI250X-GCD-64GB", 2)}
)
"""Boards whose dies are devices of their own, to a system that gives each device some layers: the die and how many."""


def canonical_gpu(name: str) -> str:
    """The project's name of a GPU, where it has one."""
    return GPU_ALIASES.get(name, name)


def canonical_model(name: str) -> str:
    """The project's name of a model."""
    return _MODEL_ALIASES.get(name, name)


@lru_cache(maxsize=256)
def plain(name: str) -> str:
    """A name in the spelling in which names are compared."""
    # Imported late: the specs take ten times as long to import as the table takes to read.
    from llm_perf.config.names import normalise

    return normalise(name)
