"""Sampling stops when the median is known or the time is up, and the suite keeps to its budget."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import random
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.fit import kernels
from calibrate.probe import disk
from calibrate.probe.devices import Device
from calibrate.probe.sampler import Clock, Samples, median_uncertainty, sample
from llm_perf.errors import OutputError, SpecError


class FakeClock(Clock):
    """Seconds of a list instead of the machine's."""

    def __init__(self, seconds: Any) -> None:
        super().__init__(Device("cpu", 0))
        self._seconds = iter(seconds)

    def seconds(self, call: Any, inner: int, turn: int) -> float:
        del call, inner, turn
        return float(next(self._seconds))


def test_a_disk_behind_the_page_cache_is_marked_and_no_rate_of_a_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without direct I/O answers with the memory's rate."""
    opened = os.open

    def without_direct(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(path, flags, *rest)

    assert {item.settings["direct"] for item in disk.items(tmp_path)} <= {True, False}
    monkeypatch.setattr(os, "open", without_direct)
    found = list(disk.items(tmp_path))
    assert [item.settings["direct"] for item in found] == [False] * 4
    assert not list(tmp_path.iterdir())
    record = {
        "device": "cpu",
        "environment": {"disk": {"total_bytes": 1e12}},
        "items": [
            {"kind": "disk", "settings": item.settings, "work": item.work, "median_s": 1e-3} for item in found
        ],
    }
    assert kernels._disk_fields(record) is None
    for item in record["items"]:
        item["settings"] = {**item["settings"], "direct": True}
    fields = kernels._disk_fields(record)
    assert fields is not None
    assert fields["direct_read"]["gb_per_s"] > 1


def test_steady_calls_need_few_samples() -> None:
    found = sample(lambda _turn: None, FakeClock(itertools.repeat(0.01)), limit_s=60)
    assert len(found.seconds) == 7
    assert found.converged


def test_jittery_calls_need_more_but_not_for_ever() -> None:
    draw = random.Random(1)
    jitter = (0.01 * math.exp(0.08 * draw.gauss(0, 1)) for _ in itertools.count())
    found = sample(lambda _turn: None, FakeClock(jitter), limit_s=60)
    assert 20 < len(found.seconds) <= 400
    assert found.median_s == pytest.approx(0.01, rel=0.04)
    wild = (10 ** draw.uniform(-4, -1) for _ in itertools.count())
    assert not sample(lambda _turn: None, FakeClock(wild), limit_s=60).converged


def test_the_time_limit_ends_it() -> None:
    draw = random.Random(2)

    def call(_turn: int) -> None:
        time.sleep(draw.uniform(0.001, 0.02))

    start = time.perf_counter()
    found = sample(call, Clock(Device("cpu", 0)), limit_s=0.2)
    assert time.perf_counter() - start < 0.5
    assert found.seconds


def test_short_calls_are_timed_many_at_once() -> None:
    found = sample(lambda _turn: None, Clock(Device("cpu", 0)), limit_s=0.1)
    assert found.inner >= 100
    assert sample(lambda _turn: None, Clock(Device("cpu", 0)), 0.05, inner=5).inner == 5


def test_a_call_is_told_its_turn_so_that_it_takes_other_data() -> None:
    turns: list[int] = []
    sample(turns.append, Clock(Device("cpu", 0)), limit_s=0.01, inner=3)
    assert turns[2:] == list(range(2, len(turns)))


@given(st.lists(st.floats(1e-6, 1e3), min_size=7, max_size=60), st.floats(1e-3, 1e3))
def test_uncertainty_does_not_depend_on_unit_or_order(values: list[float], unit: float) -> None:
    here = median_uncertainty(values)
    assert median_uncertainty([unit * v for v in reversed(values)]) == pytest.approx(here, rel=1e-6, abs=1e-9)
    assert here >= 0


def test_the_median_is_inside_its_interval_as_often_as_promised() -> None:
    """95 %: of 400 samples of 25 from a skewed distribution whose median is known."""
    draw, inside = random.Random(3), 0
    for _ in range(400):
        values = sorted(math.exp(draw.gauss(0, 0.5)) for _ in range(25))
        half = median_uncertainty(values) * median(values)
        low, high = 25 / 2 - 1.96 * 2.5, 25 / 2 + 1.96 * 2.5
        assert half == pytest.approx((values[math.ceil(high)] - values[math.floor(low)]) / 2)
        inside += values[math.floor(low)] <= 1.0 <= values[math.ceil(high)]
    assert inside / 400 > 0.93


def test_few_values_are_not_known() -> None:
    assert median_uncertainty([1.0] * 6) == math.inf
    assert not Samples([1.0] * 6).converged


# -- the suite ------------------------------------------------------------------------------------------------


def test_disturbed_sizes_are_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Others are at work during the first window only; what they disturbed is measured anew, the rest is not."""
    from calibrate.probe import suite, usage
    from calibrate.probe.progress import Progress
    from calibrate.probe.sampler import Item

    windows: list[int] = []
    calls: list[int] = []

    class Busy(usage.Repeat):
        def __exit__(self, *exc: object) -> None:
            super().__exit__(*exc)
            windows.append(1)
            self.found |= {"disturbed": len(windows) == 1, "others_cores": float(len(windows) == 1)}

    def item(number: int) -> Item:
        def prepare() -> Any:
            calls.append(number)
            return lambda _turn: time.sleep(0.02)

        return Item("gemm", {"number": number}, {"flops": 1.0}, prepare)

    monkeypatch.setattr(usage, "Repeat", Busy)
    monkeypatch.setattr(suite, "_items", lambda *_: [item(number) for number in range(6)])
    start = time.perf_counter()
    found = suite._single(Device("cpu", 0), ("bf16",), 12.0, tmp_path, Progress(False), start)
    assert [one["settings"]["number"] for one in found] == list(range(6))
    assert not any(one["disturbed"] for one in found)
    again = len(calls) - 6
    assert 0 < again < 6
    assert calls[6:] == calls[:again]  # those of the first window


@pytest.mark.run
def test_the_suite_measures_within_its_budget_and_keeps_its_samples(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("deepspeed")
    from calibrate.run.microbench import microbench

    target = tmp_path / "bench.json"
    wanted = {"launch", "copy", "gemm", "layer"}
    kinds: set[str] = set()
    for budget_s in (3.0, 12.0, 48.0):  # more where other work leaves too little of it
        found = microbench("cpu", "bf16", budget_s, str(target), str(tmp_path), allow_concurrent=True)
        assert json.loads(target.read_text()) == {name: found[name] for name in found if name != "file"}
        assert list(tmp_path.iterdir()) == [target]  # nothing of the disk's file is left
        good = [item for item in found["items"] if not item.get("error")]
        kinds = {item["kind"] for item in good}
        if wanted <= kinds:
            break
    assert wanted <= kinds
    for item in good:
        times = item.get("samples_s") or item["per_layer_samples_s"]
        assert times
        assert all(t >= 0 for t in times)
    late = [item["error"] for item in found["items"] if item.get("error")]
    assert all("the budget had ended" in error for error in late)
    assert found["environment"]["cpu"]["name"]


def test_what_the_suite_refuses(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("deepspeed")
    from calibrate.run.microbench import microbench

    with pytest.raises(OutputError, match="there is no folder"):
        microbench("cpu", out=str(tmp_path / "no" / "bench.json"))
    with pytest.raises(SpecError, match="--budget 0"):
        microbench(
            "cpu", budget_s=0, out=str(tmp_path / "bench.json"), folder=str(tmp_path), allow_concurrent=True
        )
    assert not list(tmp_path.glob("*.json"))


def test_ranks_that_end_early_give_no_collectives_whatever_they_printed() -> None:
    from calibrate.probe.collective import _records_of

    assert _records_of("") == []
    assert _records_of("a library says hello\n") == []
    assert _records_of("hello\n3\n") == []
    assert _records_of('hello\n[{"kind": "collective"}]\n') == [{"kind": "collective"}]
