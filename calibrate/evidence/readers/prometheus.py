"""The metrics that a vLLM or SGLang server offers to Prometheus: sums since it started, in seconds and tokens.

They say how large the cache is, what was preempted and what requests took on average over all loads that the server saw. How
requests came they do not say.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Final

from calibrate.evidence.benchmark_run import (
    BenchmarkRun,
    Counts,
    Deployment,
    Engine,
    Figure,
    Quantity,
    Setting,
    Statistic,
    TokenLengths,
)
from calibrate.evidence.readers.source import Source
from llm_perf.errors import SpecError

__all__ = ["is_metrics", "read_metrics"]

_SAMPLE: Final = re.compile(r"^((?:vllm|sglang):\w+)(?:\{(.*)\})? (\S+)(?: \d+)?$")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_HISTOGRAMS: Final[dict[str, Quantity]] = {
    "time_to_first_token_seconds": "ttft_s",
    "request_time_per_output_token_seconds": "tpot_s",
    "time_per_output_token_seconds": "itl_s",
    "inter_token_latency_seconds": "itl_s",
    "e2e_request_latency_seconds": "e2e_s",
    "request_queue_time_seconds": "queue_s",
    "queue_time_seconds": "queue_s",
}
_LENGTHS: Final = {
    "prompt": ("request_prompt_tokens", "prompt_tokens_histogram"),
    "output": ("request_generation_tokens", "generation_tokens_histogram"),
}
_RANKS: Final = ("tp_rank", "pp_rank", "moe_ep_rank")
"""Labels of ranks of one engine, each of which states the whole engine's gauges."""

_PREEMPTED: Final = ("num_preemptions_total", "num_retracted_requests_total")
_PROMPTS: Final = ("prompt_tokens_total",)
_WRITTEN: Final = ("generation_tokens_total",)
_HITS: Final = (
    ("prefix_cache_queries_total", "prefix_cache_hits_total"),
    ("prompt_tokens_total", "cached_tokens_total"),
)
_DONE: Final = ("request_success_total", "num_requests_total")
_GAUGES: Final[tuple[tuple[str, Quantity], ...]] = (
    ("num_requests_running", "running_requests"),
    ("num_running_reqs", "running_requests"),
    ("num_requests_waiting", "waiting_requests"),
    ("num_queue_reqs", "waiting_requests"),
    ("kv_cache_usage_perc", "kv_cache_usage"),
    ("gpu_cache_usage_perc", "kv_cache_usage"),
    ("token_usage", "kv_cache_usage"),
    ("max_total_num_tokens", "kv_cache_tokens"),
)
_SHARES: Final[tuple[tuple[Statistic, float], ...]] = (
    ("p50", 0.5),
    ("p90", 0.9),
    ("p95", 0.95),
    ("p99", 0.99),
)

Labels = dict[str, str]


def is_metrics(source: Source) -> bool:
    """A text of metrics of one of the two."""
    return re.search(r"^(?:vllm|sglang):\w+(?:\{| )", source.text, re.MULTILINE) is not None


def read_metrics(source: Source) -> list[BenchmarkRun]:
    """One run: what the server did since it started.

    Raises:
        SpecError: a line is no sample, or none says anything of requests.
    """
    samples = _samples(source)
    engine = "sglang" if any(name.startswith("sglang:") for name, _, _ in samples) else "vllm"
    found = _Metrics([(name.partition(":")[2], labels, value) for name, labels, value in samples])
    cache = found.labels_of("cache_config_info")
    figures = [*found.figures(), *_cache_tokens(cache, found)]
    if not figures:
        raise SpecError(f"{source.name}: no metric of it says anything of requests or of the cache")
    models = {labels["model_name"] for _, labels, _ in samples if labels.get("model_name")}
    done = found.total(*_DONE)
    return [
        BenchmarkRun(
            tool="prometheus",
            engine=Engine(name=engine, settings=_settings(cache)),
            deployment=Deployment(
                model=next(iter(models)) if len(models) == 1 else None,
                gpu_memory_utilization=_share(cache.get("gpu_memory_utilization")),
                kv_format={"fp8": "fp8", "fp8_e4m3": "fp8"}.get(cache.get("cache_dtype", "")),
                prefix_hit_rate=found.hit_rate(),
            ),
            prompt=found.lengths("prompt"),
            output=found.lengths("output"),
            figures=tuple(figures),
            counts=Counts(
                completed=done,
                preempted=found.total(*_PREEMPTED),
                prompt_tokens=found.total(*_PROMPTS),
                output_tokens=found.total(*_WRITTEN),
            ),
            source=source.name,
            notes=(
                "means are of all requests since the server started; percentiles are read between its buckets",
            ),
            unread=found.unread,
        )
    ]


def _samples(source: Source) -> list[tuple[str, Labels, float]]:
    found = []
    for number, line in enumerate(source.text.splitlines(), 1):
        if not line.startswith(("vllm:", "sglang:")):
            continue
        match = _SAMPLE.match(line)
        try:
            value = float(match[3]) if match else None
        except ValueError:
            value = None
        if match is None or value is None:
            raise SpecError(f"{source.name}:{number}: is no sample of a metric: it was cut off")
        found.append((match[1], dict(_LABEL.findall(match[2] or "")), value))
    return found


class _Metrics:
    """Samples by name, those of all engines and labels together."""

    def __init__(self, samples: list[tuple[str, Labels, float]]) -> None:
        self.samples: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
        for name, labels, value in samples:
            self.samples[name].append((labels, value))
        self.asked: set[str] = set()

    def sum(self, name: str) -> float | None:
        """The sum over all labels; None where there is no such metric."""
        self.asked.add(name)
        found = self.samples.get(name)
        return None if found is None else sum(value for _, value in found)

    def total(self, *names: str) -> int | None:
        """A counter as a whole number, under the first of its names that is there."""
        found = next((value for name in names if (value := self.sum(name)) is not None), None)
        return None if found is None else round(found)

    def gauge(self, name: str, *, share: bool = False) -> float | None:
        """A gauge of the whole server: engines together, or their mean where it is a share of each one's cache.

        SGLang's ranks of one engine state the same, and a sample with an empty ``priority`` is the sum over priorities.
        """
        self.asked.add(name)
        engines: dict[tuple[tuple[str, str], ...], list[tuple[Labels, float]]] = defaultdict(list)
        for labels, value in self.samples.get(name, ()):
            own = tuple(sorted((k, v) for k, v in labels.items() if k not in (*_RANKS, "priority")))
            engines[own].append((labels, value))
        values = [_of_engine(samples) for samples in engines.values()]
        if not values:
            return None
        return sum(values) / len(values) if share else sum(values)

    def labels_of(self, name: str) -> Labels:
        """The labels of a metric that says nothing else."""
        self.asked.add(name)
        return dict(self.samples[name][0][0]) if name in self.samples else {}

    def mean(self, name: str) -> tuple[float, int] | None:
        """A histogram's mean and count; None where it counted nothing."""
        total, count = self.sum(f"{name}_sum"), self.sum(f"{name}_count")
        return None if total is None or not count else (total / count, round(count))

    def figures(self) -> list[Figure]:
        """Means and percentiles of histograms, and gauges."""
        found: dict[Quantity, list[Figure]] = {}
        for name, quantity in _HISTOGRAMS.items():
            mean = self.mean(name)
            buckets = self.buckets(name)
            if mean is None or quantity in found:
                continue
            found[quantity] = [
                Figure(quantity=quantity, value=mean[0], samples=mean[1], stated=f"{name}_sum / _count")
            ]
            found[quantity] += [
                Figure(
                    quantity=quantity,
                    statistic=statistic,
                    value=value,
                    samples=mean[1],
                    stated=f"{name}_bucket",
                )
                for statistic, share in _SHARES
                if (value := _between(buckets, share)) is not None
            ]
        for name, quantity in _GAUGES:
            value = self.gauge(name, share=quantity == "kv_cache_usage")
            if value is not None and quantity not in found:
                found[quantity] = [Figure(quantity=quantity, value=value, stated=f"{name} {value:g}")]
        return [one for figures in found.values() for one in figures]

    def buckets(self, name: str) -> list[tuple[float, float]]:
        """(upper end, how many are below) in ascending order."""
        self.asked.add(f"{name}_bucket")
        below: dict[float, float] = defaultdict(float)
        for labels, value in self.samples.get(f"{name}_bucket", ()):
            try:
                below[float(labels.get("le", "inf"))] += value
            except ValueError:
                raise SpecError(f"{name}_bucket: le={labels['le']!r} is no bound: it was cut off") from None
        return sorted(below.items())

    def lengths(self, which: str) -> TokenLengths:
        """Mean tokens per request."""
        found = next((mean for name in _LENGTHS[which] if (mean := self.mean(name)) is not None), None)
        return TokenLengths() if found is None or not found[0] else TokenLengths(mean=found[0], kind="vary")

    def hit_rate(self) -> float | None:
        """Share of prompt tokens that a prefix cache had."""
        for of, had in _HITS:
            asked, found = self.sum(of), self.sum(had)
            if asked and found is not None:
                return min(found / asked, 1.0)
        return None

    @property
    def unread(self) -> tuple[str, ...]:
        """Metrics that nobody asked for."""
        known = {name for one in self.asked for name in (one, f"{one}_created")}
        return tuple(
            sorted(n for n in self.samples if n not in known and not n.endswith(("_created", "_bucket")))
        )


def _of_engine(samples: list[tuple[Labels, float]]) -> float:
    """A gauge of one engine from those of its ranks and priorities."""
    ranks: dict[tuple[str, ...], list[tuple[str | None, float]]] = defaultdict(list)
    for labels, value in samples:
        ranks[tuple(labels.get(rank, "") for rank in _RANKS)].append((labels.get("priority"), value))
    return max(
        next((value for priority, value in own if not priority), sum(value for _, value in own))
        for own in ranks.values()
    )


def _between(buckets: list[tuple[float, float]], share: float) -> float | None:
    """The value below which a share of a histogram lies, read evenly within its bucket; None beyond the last bound."""
    total = buckets[-1][1] if buckets else 0.0
    if not total:
        return None
    low = count = 0.0
    for high, below in buckets:
        if below >= share * total:
            return (
                None
                if high == float("inf")
                else low + (high - low) * (share * total - count) / (below - count or 1)
            )
        low, count = high, below
    return None


def _cache_tokens(cache: Labels, found: _Metrics) -> list[Figure]:
    """What vLLM's cache holds: blocks of a size, of each engine."""
    try:
        tokens = int(cache.get("num_gpu_blocks", "")) * int(cache.get("block_size", ""))
    except ValueError:
        return []
    engines = len(found.samples["cache_config_info"])
    stated = f"num_gpu_blocks {cache['num_gpu_blocks']} x block_size {cache['block_size']}"
    return [Figure(quantity="kv_cache_tokens", value=float(tokens * engines), scope="system", stated=stated)]


def _settings(cache: Labels) -> dict[str, Setting]:
    kept = (
        "block_size",
        "cache_dtype",
        "enable_prefix_caching",
        "num_gpu_blocks",
        "sliding_window",
        "cpu_offload_gb",
    )
    return {name: cache[name] for name in kept if cache.get(name) not in (None, "None")}


def _share(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value <= 1 else None
