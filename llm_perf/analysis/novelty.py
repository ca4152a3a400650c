"""What of a question no measured run of its stack has: facets by name, and sizes outside of what was measured.

Constants of a serving stack are fitted to runs of some models, GPUs and loads, and stand for others as far as the same
kernels run there. A *facet* is what decides which kernels and paths of an engine run: the maker and the generation of the
GPU, kinds of layers, the weights' format (dense layers and experts have kernels of their own, by generation), the width of
the cache, kinds of parallel ranks. *Sizes* are how many sequences run in a replica, and how long they are.
``stack_facets.json`` has one line per stack, of its rows and of those of versions that it inherits from, and one per
family (`calibrate.validate.novelty` writes it); what is in no line of a stack is new to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from llm_perf.config.files import package_folder
from llm_perf.config.formats import FORMATS
from llm_perf.config.gpu import UNNAMED_MAKER
from llm_perf.config.layers.base import Mixer
from llm_perf.config.model import LayerGroup
from llm_perf.config.scenario import Scenario

FILE: Final = "stack_facets.json"
SIZES: Final = ("sequences", "context")
BEYOND: Final = 1.5
"""Factor outside of the measured sizes from which a size is new: half way to the next row of grids, which double."""

MECHANISMS: Final = frozenset({"layers", "weights", "parallelism"})
"""Facets of which each value has kernels, or exchanges, of its own."""

_LIBRARY: Final = "16-bit layers"
"""Products of a vendor's library, which has them for every generation; all others' kernels are written for each."""

REGIME, MECHANISM, UNSEEN, MAKER = "regime", "mechanism", "unseen mechanism", "maker"
LEVELS: Final = (REGIME, MECHANISM, UNSEEN, MAKER)
"""What is new: other sizes, another generation or width of the cache, for which kernels are there; a mechanism that other
versions of the family have rows of; one that none of them has; another maker's GPU."""

_TEXTS: Final = {
    "maker": "GPUs of {}",
    "generation": "{} GPUs",
    "layers": "{} layers",
    "weights": "{} on {}",
    "cache": "a cache of {}",
    "parallelism": "{}",
    "sequences": "{:,.0f} sequences at once",
    "context": "{:,.0f} tokens a sequence",
}
_TEXT_OF_ONE: Final = {"sequences": "1 sequence at once"}


@dataclass(frozen=True, slots=True)
class Question:
    """The facets and sizes of a run, asked for or measured. ``weights`` are without the generation of the GPU."""

    maker: str
    generation: str
    layers: frozenset[str]
    weights: frozenset[str]
    cache: str
    parallelism: frozenset[str]
    sizes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Novel:
    """One thing that no run of a stack has: which facet or size it is of, and in words."""

    facet: str
    text: str


def question_of(scenario: Scenario) -> Question:
    """The facets and sizes of a scenario."""
    parallel, workload = scenario.parallelism, scenario.workload
    ranks = {
        "tensor ranks": parallel.tp_size, "pipeline stages": parallel.pp_size,
        "replicas of attention": parallel.dp_size, "expert ranks": parallel.ep_size,
        "context ranks": parallel.cp_size, "several nodes": scenario.num_nodes,
    }  # fmt: skip
    return Question(
        scenario.gpu.maker,
        scenario.gpu.architecture or scenario.gpu.name,
        frozenset(name for group in scenario.model.layer_groups for name in _layers(group)),
        _weights(scenario),
        f"{scenario.dtype.kv_bits} bits",
        frozenset(name for name, size in ranks.items() if size > 1),
        {
            "sequences": workload.batch_size / parallel.dp_size,
            "context": float(workload.prompt_len + workload.gen_len),
        },
    )


def _layers(group: LayerGroup) -> Iterator[str]:
    """Kinds of mixers, and of experts; a dense block is in every stack."""
    for part in group.attention.parts:
        yield _mixer(part)
    if group.mlp.routed_experts > 0:
        yield "expert"
        if getattr(group.mlp, "shared_ffn_size", 0):
            yield "shared-expert"


def _mixer(part: Mixer) -> str:
    """The kind of a mixer; where a query sees a part of the context, how it is chosen."""
    kind = part.kind.replace("_", "-")
    if part.recurrent or part.saturates_at is None:
        return kind
    return f"{'selected' if getattr(part, 'selected', None) else 'windowed'} {kind}"


def _weights(scenario: Scenario) -> frozenset[str]:
    """Formats of the layers' matrices by what multiplies with them: dense blocks and experts have kernels of their own.

    4-bit formats that are unpacked in the product's registers are read by the same kernels (Marlin and its like), and so
    are 16-bit ones by a library's.
    """
    formats = scenario.dtype.formats
    if formats is None:
        name = f"{scenario.dtype.weight_bits}-bit"
    else:
        kernels = FORMATS[formats.name].kernels if formats.name in FORMATS else "weight-only"
        name = kernels if kernels in ("16-bit", "weight-only", "dequantise") else formats.name
    # A few dense layers below a mixture's (DeepSeek-V3's three) are no reason to call it dense.
    experts = any(group.mlp.routed_experts > 0 for group in scenario.model.layer_groups)
    return frozenset({f"{name} {'experts' if experts else 'layers'}"})


# -- what was measured ----------------------------------------------------------------------------------------


@cache
def _stacks() -> dict[str, dict[str, Any]]:
    text = (package_folder("llm_perf.analysis") / FILE).read_text("utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def measured(stack: str) -> Mapping[str, Any] | None:
    """What the runs of a stack, or of a whole family, have by facet and size; None without a line."""
    return _stacks().get(stack)


def novelty(question: Question, known: Mapping[str, Any]) -> tuple[Novel, ...]:
    """What of a question is not among what was measured, facets first, each facet and size once."""
    found = []
    if question.maker not in known["maker"]:
        found.append(("maker", question.maker or UNNAMED_MAKER))
    weights = set(known["weights"].get(question.generation, ()))
    if question.generation not in known["weights"]:
        found.append(("generation", question.generation))
    if any(_LIBRARY in names for names in known["weights"].values()):
        weights.add(_LIBRARY)
    for facet, asked, there in (
        ("layers", question.layers, known["layers"]),
        ("weights", question.weights, weights),
        ("cache", {question.cache}, known["cache"]),
        ("parallelism", question.parallelism, known["parallelism"]),
    ):
        missing = sorted(set(asked) - set(there))
        if missing:
            found.append((facet, " and ".join(missing)))
    novel = [Novel(facet, _TEXTS[facet].format(text, question.generation)) for facet, text in found]
    return (*novel, *_outside(question, known["sizes"]))


def _outside(question: Question, sizes: Mapping[str, Mapping[str, tuple[float, float]]]) -> Iterator[Novel]:
    """Sizes far from those of runs with the same kinds of layers, where there are any, else from those of all runs."""
    kinds = [kind for kind in sorted(question.layers) if kind in sizes] or ["all"]
    for name, value in question.sizes.items():
        ranges = (sizes[kind][name] for kind in kinds)
        if any(value > high * BEYOND or value < low / BEYOND for low, high in ranges):
            text = _TEXT_OF_ONE.get(name) if value == 1 else None
            yield Novel(name, text or _TEXTS[name].format(value))


def levels_of(novel: Iterable[Novel], in_family: Iterable[Novel] | None) -> tuple[str, ...]:
    """Which of `LEVELS` what is new reaches, given what of the question is new to the whole family.

    Each level has those below it, a maker the regime alone: its kernels were written anew, whatever they compute.
    """
    facets = {one.facet for one in novel}
    if not facets:
        return ()
    found = [REGIME]
    if facets & MECHANISMS:
        found.append(MECHANISM)
        unseen = facets if in_family is None else {one.facet for one in in_family}
        found += [UNSEEN] if unseen & facets & MECHANISMS else []
    return (*found, *([MAKER] if "maker" in facets else []))
