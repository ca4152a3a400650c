"""What no run can be: figures that contradict each other, and speeds above what the hardware allows.

Both catch a unit that was swapped: milliseconds for seconds, one GPU's rate for the deployment's, tokens in and out for
tokens out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from calibrate.evidence.benchmark_run import BenchmarkRun, Quantity, Statistic
from calibrate.fit.served.deployment import Served
from llm_perf.analysis.stack_intervals import peak_times
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.systems import Load

_FIXED: Final = 1.3
"""How far figures of equal requests may be from what others of the same run say, as a factor."""

_VARY: Final = 3.0
"""Likewise where lengths differ, so that a mean of products is not a product of means."""

_COUNTED: Final = 1.1
"""Likewise of sums over a run, which depend on no distribution."""

_ABOVE: Final = 1.15
"""Factor above the data sheet's peaks that a run may reach: boards that clock higher, weights that stay in caches."""

_SLOWEST: Final = 1000.0
"""How many times longer than at the peaks something may take: small models in eager Python take a hundred times as long."""

_CACHED: Final = "; if a prefix cache had it, say so with --prefix-hit-rate"


def check(served: Served) -> None:
    """Refuse a run that cannot be.

    Raises:
        SpecError: figures contradict each other, or a speed is above the roofline; both numbers are named.
    """
    check_figures(served.run)
    for said in _above_roofline(served):
        raise SpecError(f"{served.run.source}: {said}")


def check_figures(run: BenchmarkRun) -> None:
    """Refuse a run whose figures contradict each other.

    Raises:
        SpecError: they do; both are named.
    """
    for said in _contradictions(run):
        raise SpecError(f"{run.source}: {said}")


def _mean(run: BenchmarkRun, quantity: Quantity) -> float | None:
    """The mean, else the median, of the whole deployment."""
    middles: tuple[Statistic, ...] = ("mean", "p50")
    for statistic in middles:
        found = run.figure(quantity, statistic)
        if found is not None and found.value > 0:
            gpus = (run.deployment.num_gpus or 1) if found.scope == "per_gpu" else 1
            return found.value * gpus
    return None


def _contradictions(run: BenchmarkRun) -> Iterator[str]:
    prompt, output = run.prompt.mean, run.output.mean
    fixed = "vary" not in (run.prompt.kind, run.output.kind) and None not in (
        run.prompt.kind,
        run.output.kind,
    )
    near = _FIXED if fixed else _VARY
    ttft, e2e = _mean(run, "ttft_s"), _mean(run, "e2e_s")
    tpot = _mean(run, "tpot_s") or _mean(run, "itl_s")
    written, total = _mean(run, "output_tokens_per_s"), _mean(run, "total_tokens_per_s")
    if ttft and e2e and tpot and output and output > 1:
        whole = ttft + tpot * (output - 1)
        yield from _apart(e2e, whole, near, f"a request takes {_s(e2e)}", f"its first token and {output - 1:.0f} more of "
                          f"{_s(tpot)} each take {_s(whole)}")  # fmt: skip
    if ttft and e2e and ttft > e2e * near:
        yield f"the first token takes {_s(ttft)}, and the whole request {_s(e2e)}: one of the two is in another unit"
    duration = _mean(run, "duration_s")
    if run.counts.output_tokens and duration and written:
        counted = run.counts.output_tokens / duration
        yield from _apart(
            written, counted, _COUNTED, f"{written:.4g} generated tokens/s",
            f"{run.counts.output_tokens} tokens in {_s(duration)} are {counted:.4g}/s",
        )  # fmt: skip
    requests = _mean(run, "requests_per_s")
    if requests and duration and run.counts.completed:
        counted = run.counts.completed / duration
        yield from _apart(
            requests, counted, _FIXED, f"{requests:.4g} requests/s",
            f"{run.counts.completed} requests in {_s(duration)} are {counted:.4g}/s",
        )  # fmt: skip
    if requests and written and output:
        counted = requests * output
        yield from _apart(
            written, counted, near, f"{written:.4g} generated tokens/s",
            f"{requests:.4g} requests/s with outputs of {output:.0f} are {counted:.4g}",
        )  # fmt: skip
    if e2e and duration and e2e > duration * near:
        yield f"a request takes {_s(e2e)}, and the whole run {_s(duration)}: one of the two is in another unit"
    if written and total and prompt and output:
        counted = written * (prompt + output) / output
        yield from _apart(
            total, counted, near, f"{total:.4g} tokens/s in all",
            f"{written:.4g} generated ones with prompts of {prompt:.0f} for outputs of {output:.0f} are {counted:.4g}",
        )  # fmt: skip
    running = run.load.concurrency
    if run.load.kind == "closed_loop" and running and output:
        requests = _mean(run, "requests_per_s") or (written / output if written else None)
        if requests and e2e:
            yield from _apart(
                running, requests * e2e, near, f"{running} requests in flight",
                f"{requests:.4g} requests/s of {_s(e2e)} each are {requests * e2e:.4g} in flight", only_above=True,
            )  # fmt: skip
        elif written and tpot and written > _FIXED * running / tpot:
            yield (
                f"{written:.4g} generated tokens/s: {running} requests in flight with a token every {_s(tpot)} are at most "
                f"{running / tpot:.4g}: one of the two is in another unit"
            )


def _apart(
    stated: float, implied: float, near: float, said: str, other: str, *, only_above: bool = False
) -> Iterator[str]:
    """A sentence where two figures of the same thing are farther apart than a factor."""
    ratio = implied / stated
    if ratio > near or (ratio < 1 / near and not only_above):
        yield f"{said}, but {other}: one of the two is in another unit, or of another scope"


def _s(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{seconds * 1e3:.3g} ms"


# -- the roofline ----------------------------------------------------------------------------------------------------


def least_times(scenario: Scenario, batch: float, prompt: float, output: float) -> tuple[float, float]:
    """(seconds of the prefill, of a decode step) of a batch at the data sheet's peaks, without launches and a host."""
    load = Load(batch, max(prompt, 1.0), max(output, 2.0))
    prefill, decode = peak_times(scenario, load)
    return prefill, decode / float(load.steps(encoder=False))


@dataclass(frozen=True)
class _Peaks:
    """What a run's deployment takes at the data sheet's peaks: seconds of one request alone, and of the whole batch."""

    alone: tuple[float, float]
    together: tuple[float, float]
    batch: float
    prompt: float
    output: float
    cached: bool

    @property
    def whole(self) -> float:
        """Of the batch from its first prompt to its last token; of prompts in a prefix cache without these."""
        return (0.0 if self.cached else self.together[0]) + self.together[1] * max(self.output - 1, 0.0)


def _peaks(served: Served) -> _Peaks:
    run, engines = served.run, float(served.scenario.parallelism.dp_size)
    batch = float(served.concurrency)
    if run.load.kind == "all_at_once":
        batch = float(max(run.load.num_requests or 1, run.counts.completed or 1, len(served.requests or ())))
    prompt, output = served.prompt, served.output
    return _Peaks(
        least_times(served.scenario, engines, prompt, output),
        least_times(served.scenario, max(batch, engines), prompt, output),
        batch, prompt, output, (run.deployment.prefix_hit_rate or 0.0) > 0,
    )  # fmt: skip


def _above_roofline(served: Served) -> Iterator[str]:
    run, scenario = served.run, served.scenario
    if scenario.gpu.absent:
        return
    peaks = _peaks(served)
    for quantity, what, least, bounded in _times(served, peaks):
        measured = _mean(run, quantity)
        if measured and least > _ABOVE * measured:
            yield _faster(
                what, measured, least, scenario, _CACHED if quantity in ("prefill_s", "ttft_s") else ""
            )
        elif measured and bounded and least and measured > _SLOWEST * least:
            yield (
                f"{what} in {_s(measured)} is {measured / least:,.0f} times what {served.num_gpus} x {scenario.gpu.name} "
                f"takes at its peaks, {_s(least)}: its unit is another one"
            )  # fmt: skip
    for quantity, most, least_rate in _rates(served, peaks):
        rate = _mean(run, quantity)
        named = quantity.removesuffix("_per_s").replace("_", " ")
        if rate and rate > _ABOVE * most:
            yield (
                f"{rate:.4g} {named}/s is above what {served.num_gpus} x {scenario.gpu.name} allows ({most:.4g}): its unit "
                "or its scope is another one"
            )  # fmt: skip
        elif rate and rate < least_rate:
            yield (
                f"{rate:.4g} {named}/s is less than a thousandth of what {served.num_gpus} x {scenario.gpu.name} allows "
                f"({most:.4g}): its unit or its scope is another one"
            )


def _times(served: Served, peaks: _Peaks) -> Iterator[tuple[Quantity, str, float, bool]]:
    """(quantity, what it is, least seconds, whether it has an upper bound: a time that waits for nothing)."""
    static = served.requests is None
    steps: tuple[Quantity, ...] = ("step_s", "tpot_s", "itl_s")
    for quantity in steps:
        yield quantity, "a decode step", (peaks.together if static else peaks.alone)[1], quantity != "itl_s"
    if not peaks.cached and served.scenario.model.encoder is False:
        yield "prefill_s", "a prompt", (peaks.together if static else peaks.alone)[0], static
        yield "ttft_s", "a prompt", peaks.alone[0], static
    if static:
        yield "decode_s", "the decode of a batch", peaks.together[1] * max(peaks.output - 2, 0.0), True
        yield "batch_s", "a batch", peaks.whole, True
    alone = (0.0 if peaks.cached else peaks.alone[0]) + peaks.alone[1] * max(peaks.output - 1, 0.0)
    yield "e2e_s", "a request", alone, False
    if served.run.load.kind == "all_at_once":
        yield "duration_s", "all of the requests", peaks.whole, True


def _rates(served: Served, peaks: _Peaks) -> Iterator[tuple[Quantity, float, float]]:
    """(quantity, most per second, least that is plausible) of a load that does not wait for requests to come."""
    if served.run.load.kind not in ("batch", "closed_loop", "all_at_once"):
        return
    prompt, output = max(peaks.prompt, 1.0), max(peaks.output, 1.0)
    step, prefill = peaks.together[1], peaks.together[0]
    if step:
        written = peaks.batch / step
        # A rate over the whole time counts the prompts' time too, of which the least rate has to know.
        slow = peaks.batch * output / max(peaks.whole, step) / _SLOWEST
        shares: tuple[tuple[Quantity, float], ...] = (
            ("output_tokens_per_s", 1.0), ("requests_per_s", 1 / output), ("total_tokens_per_s", (prompt + output) / output),
            ("input_tokens_per_s", prompt / output),
        )  # fmt: skip
        for quantity, share in shares:
            yield quantity, written * share, slow * share
        yield "decode_tokens_per_s", written, written / _SLOWEST
    if prefill and not peaks.cached:
        read = peaks.batch * peaks.prompt / prefill
        yield "prefill_tokens_per_s", read, read / _SLOWEST


def _faster(what: str, measured: float, least: float, scenario: Scenario, hint: str = "") -> str:
    gpus = scenario.parallelism.num_gpus
    return (
        f"{what} in {_s(measured)} is faster than {gpus} x {scenario.gpu.name} allows, {_s(least)} at its peaks: its unit is "
        f"another one, or the model, its number format or the GPU is{hint}"
    )
