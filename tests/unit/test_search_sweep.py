"""A sweep over structures: every combination once, in its order, equal to the single prediction, whoever evaluates it."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.errors import EnvironmentFailure, MissingExtraError, SpecError
from llm_perf.search import axes, executors
from llm_perf.search import sweep as module
from llm_perf.search.executors import get_executor
from llm_perf.search.summary import Summary
from llm_perf.search.sweep import MEASURES, NUMERIC, Coded, Sweep

SEVERAL = Sweep(
    {
        "model": ("llama-2-7b", "opt-30b"),
        "gpu": ("a100-sxm-80gb", "t4"),
        "system": ("resident", "zero_inference"),
        "tp_size": (None, 2, 3),
        "quant_bits": (None, 4),
        "batch_size": (1, 4, 64),
        "prompt_len": (64, 1500),
        "gen_len": (1, 100, 3000),
    }
)


def points(sweep: Sweep) -> dict[str, list[Any]]:
    """The whole sweep as lists."""
    found: dict[str, list[Any]] = {name: [] for name in sweep.columns}
    for chunk in range(sweep.chunks):
        for name, column in sweep.evaluate(chunk).items():
            if isinstance(column, Coded):
                found[name] += [column.values[code] if code >= 0 else None for code in column.codes]
            else:
                found[name] += column.tolist()
    return found


def test_prompts_that_differ_are_counted_against_the_batch_of_each_point():
    flags = {
        "model": "mixtral-8x7b",
        "gpu": "h100-sxm-80gb",
        "system": "vllm@0.6",
        "tp_size": 2,
        "distinct_prompts": 4,
    }
    found = points(Sweep({name: (value,) for name, value in flags.items()} | {"batch_size": (1, 4, 10)}))
    assert found["feasible"] == [False, True, True]
    assert "distinct_prompts" in found["reason"][0]
    for number, batch in ((1, 4), (2, 10)):
        single = predict_inference(build_scenario(InferenceInputs(**flags, batch_size=batch)))
        assert found["tpot_s"][number] == pytest.approx(single.tpot_s, rel=1e-12)


# -- axes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1", (1,)),
        ("1,2,8", (1, 2, 8)),
        ("1:512:x2", (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)),
        ("1:100:x10", (1, 10, 100)),
        ("1:5:x1.5", (1, 2, 3)),  # 1, 1.5, 2.25, 3.375 rounded down, each once; 5.0625 is beyond 5
        ("128:512:128", (128, 256, 384, 512)),
        ("1:6:4", (1, 5)),
        ("4,1:4:x2, 9", (4, 1, 2, 9)),
        ("1e1,1_000", (10, 1000)),
        ("1e3:4e3:1_000", (1000, 2000, 3000, 4000)),
    ],
)
def test_whole_numbers(text, values):
    assert axes.whole_numbers("--batch-size", text) == values


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "a", "1.5", "1:2:3:4", "5:1:1", "1:5:0", "1:5:-1", "1:5:x1", "0:8:x2", "1:9:x",
             "1:9:xa", "1:100000000:1", "1:9:xnan", "1e-1", "1e99", "nan"],
)  # fmt: skip
def test_bad_axes_are_refused_with_their_flag(text):
    with pytest.raises(SpecError, match="--batch-size"):
        axes.whole_numbers("--batch-size", text)


@given(st.integers(1, 50), st.integers(0, 300), st.integers(1, 40))
def test_a_range_is_pythons_with_its_end(first, length, step):
    found = axes.whole_numbers("--n", f"{first}:{first + length}:{step}")
    assert found == tuple(range(first, first + length + 1, step))


# -- points -----------------------------------------------------------------------------------------------------


def test_every_combination_occurs_once_in_order():
    found = points(SEVERAL)
    names = list(SEVERAL.columns[: SEVERAL.columns.index("feasible")])
    wanted = list(product(*(SEVERAL.axes[name] for name in names)))
    assert list(zip(*(found[name] for name in names), strict=True)) == wanted
    assert len(SEVERAL) == len(wanted)


def test_points_equal_the_single_prediction():
    """A thousand random points, to 1e-12: the same numbers, or refused where the single prediction is."""
    found = points(SEVERAL)
    names = list(SEVERAL.columns[: SEVERAL.columns.index("feasible")])
    refused = 0
    for number in random.Random(1).choices(range(len(SEVERAL)), k=1000):
        inputs = {name: found[name][number] for name in names if found[name][number] is not None}
        try:
            result = predict_inference(build_scenario(InferenceInputs(**inputs)))
        except SpecError:
            refused += 1
            assert not found["feasible"][number]
            assert found["reason"][number]
            assert all(math.isnan(found[name][number]) for name in MEASURES)
            continue
        decode = result.decode
        wanted = {
            "prefill_latency_s": result.prefill.latency_s,
            "decode_latency_s": decode.latency_s if decode else 0.0,
            "latency_per_token_s": decode.latency_per_token_s if decode else math.nan,
            "total_latency_s": result.total_latency_s,
            "throughput_tokens_per_s": result.total_throughput_tokens_per_s,
            "gpu_memory_bytes": result.memory.gpu.total_bytes,
            "cpu_memory_bytes": result.memory.cpu.total_bytes,
            "nvme_bytes": result.memory.nvme.total_bytes,
            "weights_on_gpu": result.placement.weights.gpu,
            "weights_on_cpu": result.placement.weights.cpu,
            "ttft_s": result.ttft_s,
            "tpot_s": math.nan if result.tpot_s is None else result.tpot_s,
        }
        assert wanted.keys() == set(MEASURES)
        for name, value in wanted.items():
            assert found[name][number] == pytest.approx(value, rel=1e-12, abs=0, nan_ok=True), name
        assert found["feasible"][number] == result.feasible
        assert (found["reason"][number] is None) == result.feasible
    assert 100 < refused < 900


@given(st.integers(1, 40), st.integers(1, 7))
def test_chunks_cut_a_sweep_without_loss(chunk_points, structures):
    """Whatever the size of the chunks, even one that cuts a structure's points in two."""
    sweep = Sweep(
        {"model": ("opt-1.3b",), "gpu": ("t4", "l4")[:2], "batch_size": (1, 2, 3), "gen_len": (2, 3, 4)}
    )
    whole = points(sweep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_POINTS", chunk_points)
        patch.setattr(module, "CHUNK_STRUCTURES", structures)
        cut = Sweep(sweep.axes)
        assert cut.chunk_points <= chunk_points
        assert points(cut) == whole


def test_listed_points_go_with_all_values_of_the_axes():
    listed = ({"tp_size": 1, "quant_bits": 4, "gen_len": 7}, {"tp_size": 4, "quant_bits": None, "gen_len": 9})
    sweep = Sweep({"model": ("llama-2-7b",), "gpu": ("a100-sxm-80gb",), "batch_size": (1, 2)}, listed)
    found = points(sweep)
    named = zip(*(found[name] for name in ("tp_size", "quant_bits", "gen_len", "batch_size")), strict=True)
    assert list(named) == [(1, 4, 7, 1), (1, 4, 7, 2), (4, None, 9, 1), (4, None, 9, 2)]


def test_flexgens_batches_follow_from_its_gpu_batches():
    sweep = Sweep(
        {
            "model": ("opt-30b",),
            "gpu": ("t4",),
            "system": ("flexgen",),
            "percent": ("20 80 0 100 0 100",),
            "gpu_batch_size": (8, 16),
            "num_gpu_batches": (1, 3),
        }
    )
    assert points(sweep)["batch_size"] == [8, 24, 16, 48]
    with pytest.raises(SpecError, match="batch_size or gpu_batch_size"):
        Sweep({**sweep.axes, "batch_size": (8,)})


def test_batches_that_do_not_divide_are_points_with_a_reason():
    sweep = Sweep(
        {"model": ("opt-1.3b",), "gpu": ("a100-sxm-80gb",), "dp_size": (2,), "batch_size": (1, 2, 3, 4)}
    )
    found = points(sweep)
    assert found["feasible"] == [False, True, False, True]
    assert found["reason"][0] == "batch_size must be multiples of dp_size 2"


@pytest.mark.parametrize(
    ("given_axes", "listed", "said"),
    [
        ({"gpu": ("t4",)}, (), "--model is required"),
        ({"model": ("opt-13b",)}, (), "--gpu is required"),
        ({"model": ("opt-13b",), "gpu": ("t4",), "speed": (1,)}, (), "speed is no input"),
        ({"model": ("opt-13b",), "gpu": ()}, (), "gpu has no values"),
        ({"model": ("opt-13b",), "gpu": ("t4",)}, ({"tp_size": 1}, {"pp_size": 1}), "same inputs"),
        ({"model": ("opt-13b",), "gpu": ("t4",)}, ({"gpu": "t4"},), "both"),
        ({"model": ("opt-13b",), "gpu": ("t4",), **dict.fromkeys(NUMERIC, tuple(range(1, 100001)))}, (), "more than"),
    ],
)  # fmt: skip
def test_bad_sweeps_are_refused(given_axes, listed, said):
    with pytest.raises(SpecError, match=said):
        Sweep(given_axes, listed)


# -- executors ----------------------------------------------------------------------------------------------------

SMALL = {
    "model": ("opt-1.3b",),
    "gpu": ("t4", "l4"),
    "batch_size": tuple(range(1, 101)),
    "gen_len": tuple(range(1, 31)),
}


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep of many chunks."""
    monkeypatch.setattr(module, "CHUNK_POINTS", 100)
    sweep = Sweep(SMALL)
    assert (sweep.chunk_points, sweep.chunks) == (100, 60)
    return sweep


def assert_whole(sweep: Sweep, results: list[Any]) -> None:
    """Each chunk once, with what this process finds."""
    assert sorted(chunk for chunk, _ in results) == list(range(sweep.chunks))
    for chunk, columns in results:
        here = sweep.evaluate(chunk)
        for name in MEASURES:
            np.testing.assert_array_equal(columns[name], here[name])


def test_processes_find_what_this_one_finds(cut):
    assert_whole(cut, list(get_executor("processes:2")(cut, range(cut.chunks))))


@pytest.mark.parametrize("first", [0, 7])
def test_processes_of_which_one_is_killed_lose_and_double_nothing(cut, first):
    """The chunks that it had are evaluated again, as on a cluster."""
    results = []
    for result in get_executor("processes:2")(cut, range(first, cut.chunks)):
        results.append(result)
        if len(results) == 3:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    assert sorted(chunk for chunk, _ in results) == list(range(first, cut.chunks))
    for chunk, columns in results:
        np.testing.assert_array_equal(columns["total_latency_s"], cut.evaluate(chunk)["total_latency_s"])


ORPHANS = """
import multiprocessing, os, signal
from llm_perf.search.executors import get_executor
from llm_perf.search.sweep import Sweep

if __name__ == "__main__":
    sweep = Sweep({"model": ("opt-1.3b",), "gpu": ("t4",), "batch_size": tuple(range(1, 400_001))})
    next(get_executor("processes:2")(sweep, range(sweep.chunks)))
    print(*[process.pid for process in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_worker_processes_end_with_a_sweep_that_was_killed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(ORPHANS)
    pids = tmp_path / "pids"  # no pipe: workers that live on would hold it open
    with pids.open("w") as out:
        ran = subprocess.run(
            [sys.executable, script], stdout=out, stderr=subprocess.DEVNULL, timeout=120, check=False
        )
    assert ran.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in pids.read_text().split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their sweep"
        time.sleep(0.1)


def test_processes_that_are_killed_again_and_again_are_one_clear_failure(cut):
    """As where each runs out of memory."""
    results = get_executor("processes:2")(cut, range(cut.chunks))

    def drained() -> None:
        for _ in results:
            for process in multiprocessing.active_children():
                process.kill()

    with pytest.raises(EnvironmentFailure, match="worker processes of the sweep were killed"):
        drained()


def test_a_cluster_that_loses_a_worker_loses_and_doubles_nothing(cut):
    """Three worker processes, one of which is killed while chunks are on it."""
    distributed = pytest.importorskip("distributed", reason="the extra 'distributed' is not installed")
    options = {"n_workers": 3, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options, silence_logs=50) as cluster:
        victim = next(iter(cluster.workers.values())).process.process.pid
        address = "dask:" + cluster.scheduler_address.removeprefix("tcp:")
        results = []
        for result in get_executor(address)(cut, range(cut.chunks)):
            results.append(result)
            if len(results) == 3:
                os.kill(victim, signal.SIGKILL)
        assert_whole(cut, results)


class FakeFuture:
    """A chunk on a cluster, in a state of distributed's futures."""

    def __init__(self, chunk: int, status: str) -> None:
        self.chunk, self.status = chunk, status

    def result(self) -> tuple[int, dict[str, Any]]:
        return self.chunk, {}

    def exception(self) -> Exception | None:
        return ValueError("broken") if self.status == "error" else None

    def release(self) -> None:
        pass


class FakeClient:
    """A cluster of one worker whose chunks are all in one state when they are asked for."""

    loop = None

    def __init__(self, status: str) -> None:
        self.status = status

    def run(self, function: Any, on_error: str) -> dict[str, Any]:
        return {"one": function()}

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        return {"workers": {"one": {"nthreads": 1}}}

    def submit(self, _function: Any, _sweep: Sweep, chunk: int = -1, *_: Any, **__: Any) -> FakeFuture:
        return FakeFuture(chunk, self.status)

    def close(self) -> None:
        pass


class FakeCompleted(list[FakeFuture]):
    """distributed.as_completed, in the order of submission."""

    def __init__(self, futures: list[FakeFuture], loop: Any) -> None:
        super().__init__(futures)

    add = list.append


def test_a_finished_chunk_that_is_lost_again_with_its_worker_is_waited_for(cut, monkeypatch):
    """The worker died after the chunk was announced and before it was fetched: the scheduler evaluates it again."""
    distributed = pytest.importorskip("distributed", reason="the extra 'distributed' is not installed")
    monkeypatch.setattr(distributed, "as_completed", FakeCompleted)
    for status in ("finished", "lost", "pending"):
        monkeypatch.setattr(executors, "_client", lambda *_, status=status: FakeClient(status))
        found = [chunk for chunk, _ in executors.dask(cut, range(cut.chunks), "tcp://one")]
        assert found == list(range(cut.chunks))
    monkeypatch.setattr(executors, "_client", lambda *_: FakeClient("error"))
    with pytest.raises(EnvironmentFailure, match="failed on the cluster: broken"):
        list(executors.dask(cut, range(cut.chunks), "tcp://one"))


class Forgetful(FakeCompleted):
    """Ends without the first chunk of the first round, as a cluster once did whose worker was killed."""

    rounds = 0

    def __init__(self, futures: list[FakeFuture], loop: Any) -> None:
        Forgetful.rounds += 1
        super().__init__(futures[1:] if Forgetful.rounds == 1 else futures, loop)


def test_a_chunk_that_a_cluster_forgets_is_asked_for_again(cut, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="the extra 'distributed' is not installed")
    monkeypatch.setattr(distributed, "as_completed", Forgetful)
    monkeypatch.setattr(executors, "_client", lambda *_: FakeClient("finished"))
    Forgetful.rounds = 0
    found = [chunk for chunk, _ in executors.dask(cut, range(cut.chunks), "tcp://one")]
    assert found == [*range(1, cut.chunks), 0]
    assert Forgetful.rounds == 2
    monkeypatch.setattr(Forgetful, "__init__", lambda self, futures, loop: list.__init__(self))
    with pytest.raises(EnvironmentFailure, match="lost chunks"):
        list(executors.dask(cut, range(cut.chunks), "tcp://one"))


def test_a_cluster_that_does_not_answer_is_one_clear_failure(monkeypatch):
    pytest.importorskip("distributed", reason="the extra 'distributed' is not installed")
    monkeypatch.setattr(executors, "CONNECT_S", 1)
    with pytest.raises(EnvironmentFailure, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        list(get_executor("dask://127.0.0.1:9")(Sweep(SMALL), [0]))


class Asked:
    """A cluster whose workers answer so."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def run(self, function: Any, on_error: str) -> dict[str, Any]:
        assert on_error == "return"
        return {name: function() if said is None else said for name, said in self.answers.items()}


def test_workers_with_another_version_are_refused():
    with pytest.raises(EnvironmentFailure, match=r"worker two has llm-perf 0\.0\.1"):
        executors._check_workers(Asked(one=None, two="0.0.1"))
    with pytest.raises(EnvironmentFailure, match="worker two cannot say"):
        executors._check_workers(Asked(one=None, two=ModuleNotFoundError("No module named 'llm_perf'")))


def test_a_worker_that_comes_later_is_asked_with_its_chunk(cut):
    with pytest.raises(EnvironmentFailure, match="and the sweep's is 0"):
        executors._evaluate_with(cut, 0, "0")


def test_a_worker_that_ends_while_it_is_asked_is_none():
    executors._check_workers(Asked(one=None, two=ConnectionResetError("reset")))
    with pytest.raises(EnvironmentFailure, match="no workers"):
        executors._check_workers(Asked(two=ConnectionResetError("reset")))


def test_a_lost_scheduler_is_one_clear_failure(cut, monkeypatch):
    from concurrent.futures import CancelledError

    distributed = pytest.importorskip("distributed", reason="the extra 'distributed' is not installed")
    monkeypatch.setattr(distributed, "as_completed", FakeCompleted)
    monkeypatch.setattr(executors, "_client", lambda *_: FakeClient("cancelled"))

    def lost(_: FakeFuture) -> None:
        raise CancelledError("scheduler-connection-lost.\nClient lost the connection")

    monkeypatch.setattr(FakeFuture, "result", lost)
    with pytest.raises(
        EnvironmentFailure, match=r"at tcp://one is lost \(scheduler-connection-lost\. Client"
    ):
        list(executors.dask(cut, range(cut.chunks), "tcp://one"))


@pytest.mark.parametrize(
    "name", ["", "threads", "processes:0", "processes:x", "processes:", "dask", "dask:x", "dask://"]
)
def test_bad_executors_are_refused(name):
    with pytest.raises(SpecError, match="--executor"):
        get_executor(name)


def test_dask_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match="distributed"):
        get_executor("dask://127.0.0.1:8786")


# -- summary ------------------------------------------------------------------------------------------------------


def test_the_summary_does_not_depend_on_the_order_of_chunks(cut):
    chunks = list(range(cut.chunks))
    found = []
    for order in (chunks, chunks[::-1]):
        summary = Summary(cut, 7)
        for chunk in order:
            summary.add(chunk, cut.evaluate(chunk))
        found.append(
            {
                key: value
                for key, value in summary.as_dict().items()
                if not key.startswith(("seconds", "points_per"))
            }
        )
    assert json.dumps(found[0]) == json.dumps(found[1])
    best = points(cut)
    rates = [
        rate for rate, fits in zip(best["throughput_tokens_per_s"], best["feasible"], strict=True) if fits
    ]
    assert [row["throughput_tokens_per_s"] for row in found[0]["best"]] == sorted(rates, reverse=True)[:7]
    assert found[0]["feasible"] + sum(found[0]["infeasible"].values()) == len(cut)


def test_lengths_that_context_ranks_or_a_draft_cannot_take_are_points_with_a_reason():
    common = {"model": ("llama-2-13b",), "gpu": ("a100-sxm-80gb",)}
    shared = Sweep(common | {"cp_size": (8,), "prompt_len": (4, 64), "gen_len": (8,)}).evaluate(0)
    assert list(shared["reason"].decoded()) == [
        "prompt_len must be at least the cp_size 8 that shares it",
        None,
    ]
    single = predict_inference(
        build_scenario(
            InferenceInputs(model="llama-2-13b", gpu="a100-sxm-80gb", cp_size=8, prompt_len=64, gen_len=8)
        )
    )
    assert shared["total_latency_s"][1] == pytest.approx(single.total_latency_s, rel=1e-12)
    drafted = common | {"draft_model": ("opt-125m",), "acceptance_rate": (0.5,), "prompt_len": (64, 3000)}
    found = Sweep(drafted).evaluate(0)["reason"]
    assert list(found.decoded()) == [None, "contexts must be within the 2048 positions of facebook/opt-125m"]
