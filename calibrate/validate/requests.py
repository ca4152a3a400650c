"""Requests over time, predicted beside measured: the lines of tables, traces, and the page of figures.

``bench/request_figures.py`` simulates every row and writes ``calibrate/measurements/requests/predicted.csv.gz``;
``make accuracy`` makes docs/accuracy_requests.md of it and of the traces, which are simulated then.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from textwrap import fill
from typing import Any, Final

from calibrate.evidence import serving_rows
from calibrate.evidence.errata import as_meant
from calibrate.evidence.ratios import gm
from calibrate.evidence.request_runs import (
    Answer,
    RequestRun,
    amplification,
    answer_of,
    is_closed_loop,
    request_run,
    throughput_of,
)
from calibrate.evidence.serving_rows import positive_number
from calibrate.evidence.traces import QUANTITIES, Compared, compare, figures, traces, with_longer_steps
from calibrate.validate.request_left_out import left_out_table, read_left_out
from calibrate.validate.request_noise import floor_table, twice
from llm_perf.errors import LLMPerfError
from llm_perf.systems import system_of
from llm_perf.systems.hybrid import has_experts

PAGE: Final = "docs/accuracy_requests.md"
PREDICTED: Final = "calibrate/measurements/requests/predicted.csv.gz"
COLUMNS: Final = (
    "row_id", "load", "release", "model", "gpu", "quantity", "measured", "predicted", "reason", "amplification",
)  # fmt: skip
_MEASURED: Final = ("tpot_s", "ttft_s", "throughput_tok_s")
_CLOSED, _OPEN, _DRAIN = "closed loop", "rate", "all at once"
_AIMS: Final = (
    ((_CLOSED,), "tpot_s", 1.15),
    ((_CLOSED,), "ttft_s", 1.35),
    ((_CLOSED,), "throughput_tok_s", 1.15),
    ((_OPEN, _DRAIN), "ttft_s", 1.5),
    ((_OPEN, _DRAIN), "throughput_tok_s", 1.25),
)
"""Loads, quantity, and the geometric mean that was to be reached, set before anything was simulated."""
_AIMED_SHARE: Final = 0.95

Line = Mapping[str, str]


@cache
def rows() -> tuple[Mapping[str, str], ...]:
    """Rows of the tables whose requests come and go: closed loops of serving stacks, and the table of requests."""
    data = (resources.files("calibrate") / "measurements" / "requests" / "requests.csv.gz").read_bytes()
    requests = list(csv.DictReader(gzip.decompress(data).decode("utf-8").splitlines()))
    closed = [row for row in serving_rows.load_rows() if is_closed_loop(row)]
    return (*closed, *(as_meant(row) for row in requests if row["status"].startswith("ok")))


def line_of(row: Mapping[str, str]) -> Iterator[Line]:
    """The lines of a row: one per measured quantity, or one with the reason for which it is not predicted."""
    measured = {name: value for name in _MEASURED if (value := positive_number(row.get(name))) is not None}
    common = {"row_id": row["row_id"], "load": _load(row), "model": row["model"], "gpu": row["gpu"]}
    try:
        run = request_run(row)
        answer = answer_of(run)
        if not answer.completed:
            raise _refused(answer)
    except LLMPerfError as error:
        name = row["system"] if "@" in row["system"] else f"{row['system']} {row['system_version']}".strip()
        yield common | dict.fromkeys(COLUMNS[5:], "") | {"release": name, "reason": str(error)}
        return
    file = system_of(run.scenario).file
    predicted = _predicted(answer, row, run)
    for quantity, value in measured.items():
        if math.isfinite(predicted[quantity]):
            yield common | {
                "release": f"{file.name}@{file.release}",
                "quantity": quantity,
                "measured": repr(value),
                "predicted": f"{predicted[quantity]:.6g}",
                "reason": "",
                "amplification": f"{amplification(run, answer):.2f}"
                if (quantity, common["load"]) == ("ttft_s", _OPEN)
                else "",
            }


def _refused(answer: Answer) -> LLMPerfError:
    return LLMPerfError(f"the engine refuses all {answer.rejected} requests of these lengths")


def _predicted(answer: Answer, row: Mapping[str, str], run: RequestRun) -> dict[str, float]:
    rate = throughput_of(answer, row, run.run.num_gpus)
    return {"tpot_s": answer.tpot_s, "ttft_s": answer.ttft_s, "throughput_tok_s": rate}


def _load(row: Mapping[str, str]) -> str:
    when = row.get("request_rate") or ""
    if not when or "closed loop" in when:
        return _CLOSED
    return _DRAIN if when.startswith(("inf", "offline")) else _OPEN


def table_text(lines: Iterable[Line]) -> str:
    """The lines as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def read_predicted() -> list[Line]:
    """The lines that are committed."""
    data = (resources.files("calibrate") / "measurements" / "requests" / "predicted.csv.gz").read_bytes()
    return list(csv.DictReader(io.StringIO(gzip.decompress(data).decode("utf-8"))))


def table_figures(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """By kind of load: rows, those that are predicted, and of each quantity how many there are, gm and bias."""
    found = []
    for load in (_CLOSED, _OPEN, _DRAIN):
        own = [line for line in lines if line["load"] == load]
        one: dict[str, Any] = {
            "load": load,
            "rows": len({line["row_id"] for line in own}),
            "predicted": len({line["row_id"] for line in own if not line["reason"]}),
        }
        for quantity in _MEASURED:
            ratios = _log_ratios(own, quantity)
            one[quantity] = {"rows": len(ratios), "gm": gm(ratios), "bias": _bias(ratios)} if ratios else None
        found.append(one)
    return found


# -- the page -------------------------------------------------------------------------------------------------------


def page(lines: Sequence[Line]) -> str:
    """docs/accuracy_requests.md."""
    return "\n".join([_HEAD, *_trace_tables(), _TABLES, *_by(lines, "load"), "", *_aims(lines), "",
                      _FLOOR, *floor_table(rows(), lines), _twice(lines), "",
                      _EXPERTS, *_by_experts(lines), "",
                      _QUEUES, *_by_amplification(lines), "", _SERIES,
                      _STACKS, *_by(lines, "release"), "",
                      _LEFT_OUT, *left_out_table(), "", _with_left_out(lines), "",
                      _REFUSED, *_refusals(lines)]) + "\n"  # fmt: skip


def _trace_tables() -> Iterator[str]:
    for trace in traces():
        yield f"### {trace.name}\n"
        yield f"{len(trace.measured.ttft_s)} requests; {trace.source}.\n"
        found = compare(trace)
        yield from _trace_table(found)
        yield fill(_of_the_steps(found), 120, break_long_words=False) + "\n"
        if trace.inputs is not None and trace.inputs.host is not None:
            text = _USUAL_HOST.format(host=trace.inputs.host, why=trace.host_reason)
            yield fill(text, 120, break_long_words=False) + "\n"
            yield from _trace_table(compare(trace, trace.inputs.model_copy(update={"host": None})))


def _of_the_steps(compared: Compared) -> str:
    """What of a trace's errors one factor on all steps takes away; the rest is the scheduler's."""
    tpot = figures(compared)["tpot_s"]["error"]["mean"]
    factor = 1 / (1 + tpot)
    errors = {
        name: one["error"]["mean"] for name, one in figures(with_longer_steps(compared, factor)).items()
    }
    return _LONGER.format(factor=factor, ttft=errors["ttft_s"], tpot=errors["tpot_s"], e2e=errors["e2e_s"])


def _trace_table(compared: Compared) -> Iterator[str]:
    found = figures(compared)
    yield "| | measured mean | predicted | error | measured p95 | predicted | error | single requests, median |"
    yield "| --- | --: | --: | --: | --: | --: | --: | --: |"
    for name in QUANTITIES:
        one = found[name]
        cells = [name.removesuffix("_s").upper()]
        for figure in ("mean", "p95"):
            cells += [
                _seconds(one["measured"][figure]),
                _seconds(one["predicted"][figure]),
                f"{one['error'][figure]:+.1%}",
            ]
        yield "| " + " | ".join([*cells, f"{one['median_abs_error']:.1%}"]) + " |"
    yield ""


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def _by(lines: Sequence[Line], column: str) -> Iterator[str]:
    title = {"load": "requests", "release": "version"}[column]
    yield f"| {title} | rows | predicted | TPOT gm | bias | TTFT gm | bias | throughput gm | bias |"
    yield "| --- | --: | --: | --: | --: | --: | --: | --: | --: |"
    groups: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if column == "load" or not line["reason"]:
            groups[line[column]].append(line)
    order = [_CLOSED, _OPEN, _DRAIN] if column == "load" else sorted(groups)
    for name in order:
        found = groups.get(name, [])
        there = {line["row_id"] for line in found}
        done = {line["row_id"] for line in found if not line["reason"]}
        cells = [name, str(len(there)), str(len(done))]
        for quantity in _MEASURED:
            ratios = _log_ratios(found, quantity)
            cells += [f"{gm(ratios):.3f} ({len(ratios)})", f"{_bias(ratios):+.0%}"] if ratios else ["-", "-"]
        yield "| " + " | ".join(cells) + " |"


def _aims(lines: Sequence[Line]) -> Iterator[str]:
    """What the project set out to reach with these rows, and whether it does."""
    yield "What was aimed at, and what is reached:\n"
    yield "| requests | quantity | aim | reached | |"
    yield "| --- | --- | --: | --: | --- |"
    for loads, quantity, aim in _AIMS:
        ratios = [
            ratio
            for load in loads
            for ratio in _log_ratios([line for line in lines if line["load"] == load], quantity)
        ]
        off, name = gm(ratios), quantity.split("_")[0]
        title = name if name == "throughput" else name.upper()
        yield f"| {', '.join(loads)} | {title} gm | {aim:.2f} | {off:.2f} | {'met' if off <= aim else '**missed**'} |"
    closed = next(one for one in table_figures(lines) if one["load"] == _CLOSED)
    share = closed["predicted"] / closed["rows"]
    met = "met" if share >= _AIMED_SHARE else "**missed**"
    yield f"| {_CLOSED} | rows predicted | {_AIMED_SHARE:.0%} | {share:.1%} | {met} |"


def _log_ratios(lines: Iterable[Line], quantity: str) -> list[float]:
    return [
        math.log(float(line["predicted"]) / float(line["measured"]))
        for line in lines
        if line["quantity"] == quantity
    ]


def _bias(log_ratios: Sequence[float]) -> float:
    ordered = sorted(log_ratios)
    return math.exp(ordered[len(ordered) // 2]) - 1


_ALL: Final = "all"


def _by_experts(lines: Sequence[Line]) -> Iterator[str]:
    """TTFT of closed loops by release, of models with and without experts; pools apart."""
    table = {row["row_id"]: row for row in rows()}

    @cache
    def kind(row_id: str) -> str:
        groups = request_run(table[row_id]).scenario.model.layer_groups
        return "experts" if any(has_experts(group) for group in groups) else "dense"

    first: dict[str, str] = {}
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in lines:
        if line["reason"] or (line["load"], line["quantity"]) != (_CLOSED, "ttft_s"):
            continue
        one = kind(first.setdefault(line["model"], line["row_id"]))
        if "disaggregated" in table[line["row_id"]]["system"]:
            one = "two pools"
        found[line["release"], one] += _log_ratios([line], "ttft_s")
    for _, one in list(found):
        every = [ratio for (release, kind_of), ratios in found.items() if kind_of == one and release != _ALL
                 for ratio in ratios]  # fmt: skip
        found[_ALL, one] = every
    yield "| version | models | rows | TTFT gm | bias |"
    yield "| --- | --- | --: | --: | --: |"
    for (release, one), ratios in sorted(found.items()):
        yield f"| {release} | {one} | {len(ratios)} | {gm(ratios):.3f} | {_bias(ratios):+.0%} |"


def _with_left_out(lines: Sequence[Line]) -> str:
    """Throughput of queues that drain, were saturated runs predicted without their model."""
    unseen = {
        line["row_id"]: math.log(float(line["predicted_over_measured"]))
        for line in read_left_out()
        if line["without"] == "model"
    }
    drained = [line for line in lines if (line["load"], line["quantity"]) == (_DRAIN, "throughput_tok_s")]
    ratios = [
        unseen.get(line["row_id"], ratio)
        for line in drained
        for ratio in _log_ratios([line], line["quantity"])
    ]
    return _UNSEEN.format(gm=gm(ratios), rows=len(ratios))


_STEEP: Final = (0.0, 2.0, 5.0, math.inf)


def _by_amplification(lines: Sequence[Line]) -> Iterator[str]:
    """TTFT under rates, by what an error of a step makes of it."""
    ratios: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for line in lines:
        if not line["reason"] and (line["load"], line["quantity"]) == (_OPEN, "ttft_s"):
            steep = float(line["amplification"])
            place = sum(steep >= bound for bound in _STEEP[1:])
            ratios[place].append((math.log(float(line["predicted"]) / float(line["measured"])), steep))
    yield "| a step 1 % longer makes TTFT longer by | rows | median | TTFT gm | bias |"
    yield "| --- | --: | --: | --: | --: |"
    for place, found in sorted(ratios.items()):
        low, high = _STEEP[place], _STEEP[place + 1]
        name = (
            f"less than {high:g} %"
            if place == 0
            else f"{low:g} % and more"
            if high == math.inf
            else f"{low:g} to {high:g} %"
        )
        logs, steep = [one for one, _ in found], sorted(one for _, one in found)[len(found) // 2]
        yield f"| {name} | {len(found)} | {steep:.1f} % | {gm(logs):.3f} | {_bias(logs):+.0%} |"


def _twice(lines: Sequence[Line]) -> str:
    """Runs that stand in the table twice, with other lengths: what is predicted of the two."""
    known = {
        line["row_id"]: line
        for line in lines
        if line["quantity"] == "throughput_tok_s" and not line["reason"]
    }
    both = [(known[one["row_id"]], known[two["row_id"]]) for one, two in twice(rows())
            if one["row_id"] in known and two["row_id"] in known]  # fmt: skip
    ratios = [math.log(float(one["predicted"]) / float(two["predicted"])) for one, two in both]
    return fill(_TWICE.format(pairs=len(both), gm=gm(ratios)), 120, break_long_words=False)


def _refusals(lines: Sequence[Line]) -> Iterator[str]:
    counted = Counter(line["reason"] for line in lines if line["reason"])
    for reason, number in counted.most_common():
        yield f"- {number}: {reason}"


_HEAD: Final = """# Requests over time

What `llm-perf simulate` is worth on requests that really came and went. But for
[`tensorrt_llm@0.14`](#saturated-runs-left-out), no constant was fitted to any of these runs as requests over time.
Constants of the stacks are those of [the serving stacks](accuracy_stacks.md), and of versions that were measured in closed
loops only, most rows of the tables below were in that fit, as batches of one size: their TPOT is not unseen.
`python bench/request_figures.py` simulates the tables, `make accuracy` writes this page.

gm is the geometric mean of max(predicted / measured, measured / predicted), in brackets of how many rows; bias is the
median of predicted / measured - 1.

## Traces, request by request

Means of TPOT and E2E were to be within 10 %, the mean of TTFT and all 95th percentiles within 20 %.
"""
_LONGER: Final = """With every step {factor:.3f} times as long the means are off by {ttft:+.1%} (TTFT), {tpot:+.1%} (TPOT) and
{e2e:+.1%} (E2E): requests come faster than they are served, and what a step takes is taken by all that wait."""
_USUAL_HOST: Final = """That is with the host `{host}`, which was described with this trace in view. {why} With the
GPU's usual host instead, of which nothing was chosen for a trace:"""
_TABLES: Final = """## Tables

Closed loops keep a number of requests in flight; a rate is Poisson; all at once is a queue that drains. What a row does not
state is assumed once for all: ten requests per place of a closed loop, lengths that "vary" spread as widely as they are long
where the data set does not say, and answers to real conversations end at 512 tokens.

AccelMark's generator is simulated as its source has it: the same requests three times at each rate, at the gaps of
its seed, whose ends of runs it prints too; vLLM 0.20 finds their prompts in its cache again. Its figures and
gpustack's are medians. InferenceX and aiconfigurator do not say: what they print is as long as a mean, the burst at
the beginning of a loop included.
"""
_FLOOR: Final = """## How near the tables let one come

No part of this is in a prediction. Runs of one source with all settings equal, of another day or another patch, say what a
row is worth. A closed loop between two others that differ in concurrency alone is held against the line through them, with
what is predicted of all three taken off: noise, and what the prediction gets wrong of the shape. And a factor fitted to
the very rows for each version, model, format and GPU shows what is left to schedulers, lengths and noise once all kernels
and hosts were right.
"""
_EXPERTS: Final = """Where the time to the first token of closed loops is missed: prompts of models with experts, of which a
short one waits for the host (`prefill_operation_us`, `prefill_moe_us`), and a long one for kernels that the source chose:
runs of gpt-oss by vLLM on H100 and H200 had VLLM_MXFP4_USE_MARLIN=1, whose products of many rows reach .2 to .55 of what
Triton's do. What the host takes under TensorRT-LLM 1.1 and 1.2 is that of 1.0 and, for experts that are not one call,
of SGLang: neither was fitted to a run of these versions.
"""
_TWICE: Final = """{pairs} rates stand in the table twice, to the last digit, with other lengths and numbers of requests;
what is predicted of the two differs by {gm:.2f}."""
_QUEUES: Final = """Under a rate near what an engine can serve, TTFT is the wait in a queue: the difference between two
numbers that are nearly alike, requests that come and requests that are served. What an error of a step makes of it is
d ln TTFT / d ln step, found by simulating each row with all steps 5 % longer. In closed loops and queues that drain it is 1.
"""
_SERIES: Final = """Seven series hold most of what is left, and no mechanism that is known here explains them:

- **Llama-3-8B on an RTX 4090** (suite A, vLLM 0.7.3). 300 requests take 76 s at 25 a second, and 82 s in suite C,
  whose model and lengths are the same (281 tokens of prompt, not 256): half of them wait .45 s in the one and 26 s in
  the other.
- **Mixtures and 70B on eight RTX 4090** (suites B and G, vLLM 0.7.3). Steps take 1.4 to 2.2 times what is predicted,
  and queues with them; with four and eight at once they are right. These cards copy to one another through the host's
  memory, and how fast eight of them sum up there is known of no such server here.
- **DeepSeek-R1 under SGLang of November 2025** (27 rows in closed loops on B200). TPOT is right to 1.2. What first
  tokens take more than is predicted, times the ten rounds of a run, is one stall for all that come at its beginning:
  52 to 83 s in NVFP4 where the first step is full (16,384 tokens: 64 prompts of 1,024, four of 8,192; 13 s in one
  run), 1 to 5 s where it is not, 4 to 25 s in FP8. Kernels that are compiled or tuned at first use while the clock
  runs would do so; a median would not show it. Runs of 0.5.9 have none. InferenceX's scripts of the autumn of 2025
  that are public sent one request before the clock ran; later ones warm up with twice the concurrency. TensorRT-LLM's
  runs of R1 in NVFP4 from that autumn look alike (1 to 15 s).
- **Llama-3.1-70B under vLLM 0.10 on B200** (72 rows). A step that reads prompts takes 30 to 60 ms more than is
  predicted on two to eight GPUs, whatever their number, and hides behind the device on one; on H200 it does not. Its
  script has operations in place of what is compiled (custom_ops, splitting_ops: []); launched one by one at what
  TensorRT-LLM 1.0 takes, first tokens would be off by 1.22 and not by 1.36.
- **Llama-3.1-8B in FP8 under vLLM 0.12 on H200** (21 rows). Times per token leave no room for reading prompts: they
  are found again. Yet first tokens take 2 to 4 times as long as reading one would, in proportion to the prompt and
  less on more GPUs.
- **Llama-3.1-8B under TensorRT-LLM 1.0.0rc3** (177 rows of one grid). Up to 64 at once, one request waits at any time
  while the others generate: first tokens times requests per second is 1.0 to 1.3 beside those that are being read,
  whatever the lengths and ranks. Qwen3 in the same grid has no such thing. An engine with a place less than there are
  requests would do so; no setting is printed.
- **DeepSeek-R1 under TensorRT-LLM 0.17.post1.dev** (6 rows, all at once). The first branch with this model, on 8
  H200, serves 5 to 8 times less than is predicted of its versions.
"""
_LEFT_OUT: Final = """## Saturated runs left out

`tensorrt_llm@0.14` was fitted to the 225 saturated runs of TensorRT-LLM 0.17 themselves, so that its line above is no
evidence of what it is worth elsewhere. Refitted without each model and each GPU of the list,
it predicts what it never saw:
"""
_UNSEEN: Final = """With these in the place of the fitted ones throughput of all that came at once is {gm:.2f} ({rows} rows).
"""
_STACKS: Final = "By version:\n"
_REFUSED: Final = """## Not predicted

Each row that is not predicted, by its reason:
"""
