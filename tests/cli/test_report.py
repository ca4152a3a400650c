"""``llm-perf report``: one page that needs nothing else, whose numbers are those of the files and of the command line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from llm_perf.analysis.request import InferenceInputs
from llm_perf.explore.view import Prediction, prediction_view
from llm_perf.report.units import percent, seconds

ROOT = Path(__file__).parents[2]

DEMO = ("--model", "opt-175b", "--gpu", "t4", "--ds-zero", "3")


def data_of(page: Path) -> dict[str, Any]:
    """The data that stands in a page."""
    text = page.read_text("utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    data = json.loads(found[1])
    assert isinstance(data, dict)
    return data


def words_of(view: dict[str, Any]) -> str:
    """Every text and cell of a view."""
    found = []
    for card in view["cards"]:
        for part in card["parts"]:
            found += part.get("text", "").splitlines()
            found += [cell["text"] for row in part.get("rows", ()) for cell in row["cells"]]
            found += [tile["value"] for tile in part.get("tiles", ())]
            found += [line["text"] for line in part.get("lines", ())]
    return "\n".join(found)


@pytest.fixture
def stored(llm_perf: Any, folder: Path) -> Any:
    def store(name: str, *arguments: str) -> str:
        (folder / name).write_text(llm_perf(*arguments, "--json").out)
        return name

    return store


@pytest.mark.parametrize(
    "flags",
    [
        DEMO,
        ("--model", "llama-3.1-70b", "--gpu", "h100-sxm-80gb"),
        (
            "--model",
            "llama-3.1-70b",
            "--gpu",
            "h200",
            "--tp-size",
            "4",
            "--quant-bits",
            "8",
            "--batch-size",
            "16",
        ),
        ("--model", "opt-30b", "--gpu", "t4", "--system", "flexgen"),
        ("--model", "opt-1.3b", "--gpu", "t4", "--gen-len", "1"),
    ],
)
def test_a_view_is_what_infer_prints(llm_perf: Any, flags: tuple[str, ...]) -> None:
    from llm_perf.cli.explore_question import question_of
    from llm_perf.cli.report import prediction_of

    names = [word.removeprefix("--").replace("-", "_") for word in flags[::2]]
    view = prediction_view(prediction_of(question_of(list(zip(names, flags[1::2], strict=True)))))
    printed = llm_perf("infer", *flags)
    object_ = llm_perf("infer", *flags, "--json").json
    for found in (view["result"], object_):  # specs go by the names that people gave
        for name in ("model", "gpu", "host"):
            found["inputs"].pop(name)
    assert view["result"] == object_
    squeezed = " ".join(printed.out.split())
    for card in view["cards"]:
        for part in card["parts"]:
            for row in part.get("rows", ()):
                for cell in row["cells"]:
                    assert " ".join(cell["text"].split()) in squeezed


def test_front_holds_the_prediction_of_each_batch(llm_perf: Any) -> None:
    view = prediction_view(Prediction.of(InferenceInputs(model="opt-1.3b", gpu="t4", batch_size=3)))
    figure = next(part for card in view["cards"] for part in card["parts"] if part["name"] == "front")[
        "figure"
    ]
    rows = [[cell["text"] for cell in row["cells"]] for row in figure["table"]["rows"]]
    assert {"1", "2", "3", "4", "8"} <= {row[0] for row in rows}
    assert {row[-1] for row in rows} == {"yes", "no"}
    for row in rows[:4]:
        printed = llm_perf(
            "infer", "--model", "opt-1.3b", "--gpu", "t4", "--batch-size", row[0].replace(",", "")
        ).out
        for cell in row[1:5]:
            assert cell in printed, (row, printed)


def test_a_page_of_each_kind_of_result(llm_perf: Any, stored: Any, folder: Path) -> None:
    one = stored("one.json", "infer", *DEMO)
    two = stored("two.json", "infer", "--model", "llama-3.1-70b", "--gpu", "h200", "--gpu", "h100-sxm-80gb")
    plan = stored("plan.json", "plan", "--model", "opt-1.3b", "--target", "tpot<50ms", "--gpus", "t4,l4")
    (folder / "run.log").write_text(json.loads((folder / one).read_text())["benchmark_log"])
    done = llm_perf("report", one, two, plan, "--html", "out/page.html")
    assert (done.code, done.out) == (0, "")
    assert done.err == "page written to out/page.html\n"
    data = data_of(folder / "out" / "page.html")
    kinds = [view["kind"] for view in data["views"]]
    assert kinds == ["prediction"] * 3 + ["plan"] + ["prediction"] * (len(kinds) - 4)
    assert len(kinds) > 4
    assert data["views"][0]["result"] == json.loads((folder / one).read_text())
    comparison = json.loads((folder / two).read_text())["comparison"]
    assert [view["result"] for view in data["views"][1:3]] == comparison
    assert "Does not fit" in words_of(data["views"][2])
    assert [view["cards"][1]["name"] for view in data["views"][1:3]] == ["comparison", "latency"]
    assert "H100-SXM-80GB: " in words_of(data["views"][1])  # side by side with what it lacks
    best = json.loads((folder / plan).read_text())["best"][0]
    assert best["inputs"]["gpu"] in words_of(data["views"][3])
    assert data["views"][4]["result"]["inputs"] == best["inputs"]


def test_many_gpus_stand_below_each_other(llm_perf: Any, stored: Any, folder: Path) -> None:
    gpus = ["t4", "l4", "a10", "a30", "a40", "h200-sxm-141gb", "l40s", "l40", "l20"]
    name = stored(
        "many.json", "infer", "--model", "opt-1.3b", *[word for gpu in gpus for word in ("--gpu", gpu)]
    )
    assert llm_perf("report", name, "--html", "page.html").code == 0
    views = data_of(folder / "page.html")["views"]
    assert len(views) == len(gpus)
    (part,) = views[0]["cards"][1]["parts"]
    assert [column["name"] for column in part["columns"]][:2] == ["GPU", "Fits"]
    tiles = [next(part["tiles"] for part in view["cards"][0]["parts"] if "tiles" in part) for view in views]
    cells = [[cell["text"] for cell in row["cells"][1:]] for row in part["rows"]]
    assert [row[:-1] for row in cells] == [[tile["value"] for tile in own] for own in tiles]
    assert part["columns"][-1]["name"] == "90% interval of the whole batch"
    assert all(re.fullmatch(r"x/\d\.\d\d", row[-1]) for row in cells)


def test_a_measured_run_stands_beside_its_prediction(llm_perf: Any, folder: Path) -> None:
    lines = (ROOT / "calibrate/measurements/cpu_loop/runs.jsonl").read_text("utf-8").splitlines()[:1]
    (folder / "runs.jsonl").write_text("\n".join(lines) + "\n")
    assert llm_perf("report", "runs.jsonl", "--html", "page.html").code == 0
    (view,) = data_of(folder / "page.html")["views"]
    (run,) = llm_perf("compare", "runs.jsonl", "--json").json["runs"]
    assert view["kind"] == "measured run"
    assert view["near"][0]["measured_s"] == run["measured"]["total_latency_s"]
    assert view["near"][0]["predicted_s"] == run["predicted"]["total_latency_s"]
    words = words_of(view)
    for side in ("measured", "predicted"):
        assert seconds(run[side]["prefill_latency_s"]) in words
    assert percent(run["error"]["total_latency"]) in words


def test_the_page_loads_nothing_from_anywhere(llm_perf: Any, stored: Any, folder: Path) -> None:
    assert llm_perf("report", stored("one.json", "infer", *DEMO), "--html", "page.html").code == 0
    page = (folder / "page.html").read_text("utf-8")
    assert not re.findall(r"""<(?:script|link|img|iframe)[^>]*\s(?:src|href)=["'](?!data:)""", page)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "connect-src 'none'" in policy[1]


def test_published_runs_are_the_committed_ones(llm_perf: Any, stored: Any, folder: Path) -> None:
    assert llm_perf("report", stored("one.json", "infer", *DEMO), "--html", "page.html").code == 0
    figure = data_of(folder / "page.html")["accuracy"]
    points = [point for trace in figure["data"][1:] for point in trace["x"]]
    assert len(points) > 900
    assert "row 1504" in json.dumps(figure)


def test_a_stored_figure_that_is_no_longer_predicted_is_said(
    llm_perf: Any, stored: Any, folder: Path
) -> None:
    name = stored("one.json", "infer", *DEMO)
    found = json.loads((folder / name).read_text())
    found["total"]["latency_s"] = 4000.0
    (folder / name).write_text(json.dumps(found))
    assert llm_perf("report", name, "--html", "page.html").code == 0
    assert "one.json says 4,000 s (67 min)" in words_of(data_of(folder / "page.html")["views"][0])


def test_text_cannot_end_its_element(llm_perf: Any, folder: Path) -> None:
    from llm_perf.explore.page import report_page

    view = prediction_view(Prediction.of(InferenceInputs(model="opt-1.3b", gpu="t4")))
    view["label"] = "</script><script>alert(1)</script><!--"
    page = folder / "page.html"
    page.write_text(report_page([view], None))
    assert data_of(page)["views"][0]["label"] == view["label"]
    assert "alert(1)</script>" not in page.read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "malformed JSON"),
        ("[1]", "expected one JSON object"),
        ("{}", "is no result of --json of llm-perf infer, train, simulate, plan or policy, nor of calibrate"),
        ('{"inputs": {"model": "opt-1.3b", "gpu": "nope"}, "prefill": {}}', "unknown GPU 'nope'"),
        ('{"inputs": {"model": "opt-1.3b", "gpu": "t4", "batch_size": 0}, "prefill": {}}', "batch_size"),
        ('{"best": [], "front": []}', "is no complete plan"),
        (
            '{"best": [], "front": [{}], "nearest": null, "question": {"model": "opt-1.3b"}}',
            "is no complete plan",
        ),
        ('{"comparison": []}', "'comparison' must be a list of results"),
        ('{"run": {}, "status": "running"}', "bad.json"),
        ('{"inputs": {}, "step": {}, "run": null}', "--model is required"),
        (
            '{"comparison": [{"inputs": {"model": "opt-1.3b", "gpu": "nope"}, "step": {}}]}',
            "unknown GPU 'nope'",
        ),
        (
            '{"question": {"model": "opt-1.3b", "gpu": "nope"}, "policy": {}, "searched": 1}',
            "unknown GPU 'nope'",
        ),
        ('{"question": {"host": "nope"}, "without_card": null, "cards": []}', "model"),
        ('{"question": {"model": "opt-1.3b", "tokens": 1, "deadline": 0}, "best": []}', "a time such as 30d"),
        ('{"question": {"model": "opt-1.3b", "tokens": 1, "deadline": 9}, "best": 3}', "is no complete plan"),
    ],
)
def test_wrong_files(llm_perf: Any, folder: Path, content: str, message: str) -> None:
    (folder / "bad.json").write_text(content)
    assert message in llm_perf("report", "bad.json", "--html", "page.html").error
    assert not (folder / "page.html").exists()


def test_wrong_arguments(llm_perf: Any, stored: Any, folder: Path) -> None:
    name = stored("one.json", "infer", *DEMO)
    assert "Missing argument" in llm_perf("report", "--html", "page.html").error
    assert "--html" in llm_perf("report", name).error
    assert "is no file" in llm_perf("report", name, "--html", ".").error
    assert "missing.json" in llm_perf("report", "missing.json", "--html", "page.html").error
    assert [path.name for path in folder.iterdir()] == [name]


def test_a_page_takes_the_place_of_no_result_and_no_device(llm_perf: Any, stored: Any, folder: Path) -> None:
    name = stored("one.json", "infer", *DEMO)
    before = (folder / name).read_text()
    (folder / "link.json").symlink_to(name)
    for target in (name, f"./{name}", "link.json"):
        assert "would overwrite the RESULT" in llm_perf("report", name, "--html", target).error
    assert (folder / name).read_text() == before
    os.mkfifo(folder / "pipe")
    assert "pipe is no ordinary file" in llm_perf("report", name, "--html", "pipe").error
    assert (folder / "pipe").is_fifo()
    assert sorted(path.name for path in folder.iterdir()) == ["link.json", name, "pipe"]


def test_a_page_written_again_is_replaced_as_a_whole(llm_perf: Any, stored: Any, folder: Path) -> None:
    (folder / "page.html").write_text("earlier")
    assert llm_perf("report", stored("one.json", "infer", *DEMO), "--html", "page.html").code == 0
    assert (folder / "page.html").read_text().startswith("<!doctype html>")


# -- training, policies, cards --------------------------------------------------------------------------------------

TRAINED = ("train", "--model", "opt-1.3b", "--gpu", "a100-sxm-80gb", "--num-gpus", "8")


@pytest.mark.parametrize(
    ("question", "shown"),
    [
        (TRAINED, ("Training opt-1.3b on A100-SXM-80GB", "forward pass", "llm-perf train")),
        ((*TRAINED, "--gpu", "h100-sxm-80gb"), ("Training opt-1.3b", "A100-SXM-80GB", "H100-SXM-80GB", "token/s")),
        (
            ("policy", "--model", "opt-6.7b", "--gpu", "t4", "--system", "zero_inference"),
            ("Best policy for opt-6.7b on t4", "llm-perf infer"),
        ),
        (
            ("plan", "--model", "qwen3-8b", "--host", "ryzen-9-7950x", "--gpus", "rtx-4090"),
            ("A card for ryzen-9-7950x", "RTX 4090-24GB", "llama-server"),
        ),
        (
            ("plan", "--train", "--model", "llama-3-8b", "--tokens", "1e9", "--deadline", "30d",
             "--gpus", "h100-sxm-80gb", "--max-gpus", "8"),
            ("Machines to train llama-3-8b", "H100-SXM-80GB", "GPU-hours"),
        ),
    ],
)  # fmt: skip
def test_an_answer_of_each_command_has_a_page_that_says_what_the_command_says(
    llm_perf: Any, stored: Any, folder: Path, question: tuple[str, ...], shown: tuple[str, ...]
) -> None:
    name = stored("one.json", *question)
    assert llm_perf("report", name, "--html", "page.html").code == 0
    view = data_of(folder / "page.html")["views"][0]
    for words in shown:
        assert words in view["label"] + words_of(view)
    assert "shown here" not in words_of(view)  # asked anew, it is the same answer


def test_an_answer_that_is_another_today_is_said(llm_perf: Any, stored: Any, folder: Path) -> None:
    name = stored("one.json", "plan", "--model", "qwen3-8b", "--host", "ryzen-9-7950x", "--gpus", "rtx-4090")
    found = json.loads((folder / name).read_text())
    found["cards"][0]["gpu"] = "RTX-9090"
    (folder / name).write_text(json.dumps(found))
    assert llm_perf("report", name, "--html", "page.html").code == 0
    assert "one.json names other cards" in words_of(data_of(folder / "page.html")["views"][0])


# -- requests -------------------------------------------------------------------------------------------------------

SERVED = ("--model", "llama-3.1-8b", "--gpu", "h100-sxm-80gb", "--num-requests", "40", "--gen-len", "20")


@pytest.mark.parametrize(
    "more",
    [
        ("--rate", "10"),
        ("--concurrency", "8", "--replicas", "2"),
        ("--rate", "inf", "--pp-size", "2"),
        ("--rate", "5", "--prefill-replicas", "1"),
        ("--rate", "1", "--gen-len", "1"),
    ],
)
def test_a_simulation_has_a_page_with_its_own_numbers(
    llm_perf: Any, stored: Any, folder: Path, more: tuple[str, ...]
) -> None:
    name = stored("s.json", "simulate", *SERVED, *more)
    assert llm_perf("report", name, "--html", "p.html").code == 0
    (view,) = data_of(folder / "p.html")["views"]
    found = json.loads((folder / name).read_text())
    words = words_of(view)
    assert seconds(found["ttft_s"]["p95"]) in words
    assert f"{found['capacity']['requests_per_s']:.3g}" in words
    names = [part["name"] for card in view["cards"] for part in card["parts"] if part["kind"] == "figure"]
    assert names == ["shares", "over-time"]
    assert not any("shown here" in note for note in words.splitlines())


def test_a_sweep_over_rates_has_the_knee(llm_perf: Any, stored: Any, folder: Path) -> None:
    name = stored("s.json", "simulate", *SERVED, "--rate", "10,1000")
    assert llm_perf("report", name, "--html", "p.html").code == 0
    (view,) = data_of(folder / "p.html")["views"]
    (figure,) = [
        part["figure"] for card in view["cards"] for part in card["parts"] if part["kind"] == "figure"
    ]
    assert [line["name"] for line in figure["data"]] == ["TTFT p50", "TTFT p95", "TPOT p50", "TPOT p95"]
    assert "keeps up to 10 requests/s" in " ".join(words_of(view).split())


def test_a_plan_over_requests_has_a_page(llm_perf: Any, stored: Any, folder: Path) -> None:
    asked = (
        "--model",
        "llama-3.1-8b",
        "--gpus",
        "a100-sxm-80gb,l4",
        "--rate",
        "4",
        "--target",
        "p95 tpot<80ms",
    )
    name = stored("plan.json", "plan", *asked)
    assert llm_perf("report", name, "--html", "p.html").code == 0
    words = words_of(data_of(folder / "p.html")["views"][0])
    assert "vllm serve meta-llama/Llama-3.1-8B" in words
    best = json.loads((folder / name).read_text())["best"][0]
    assert f"{best['num_gpus']} x " in words


def test_a_simulation_of_another_version_says_so(llm_perf: Any, stored: Any, folder: Path) -> None:
    name = stored("s.json", "simulate", *SERVED, "--rate", "10")
    data = json.loads((folder / name).read_text())
    data["e2e_s"]["mean"] *= 1.1
    (folder / name).write_text(json.dumps(data))
    assert llm_perf("report", name, "--html", "p.html").code == 0
    assert "shown here" in words_of(data_of(folder / "p.html")["views"][0])


@pytest.mark.parametrize(
    "content",
    [
        {"rates": []},
        {"rates": [3]},
        {"scheduler": "x"},
        {"inputs": {}, "requests": {}, "throughput": {}},
        {"inputs": {"model": "llama-3.1-8b", "gpu": "nothing", "rate": 1}, "scheduler": "vLLM V1"},
        {"best": [], "simulated": 3},
        {"best": [], "simulated": 3, "question": {"model": 3}},
        {"best": None, "simulated": 3, "question": {"model": "llama-3.1-8b", "rate": 1.0}},
    ],
)
def test_what_is_no_result_of_requests_is_one_line(
    llm_perf: Any, folder: Path, content: dict[str, Any]
) -> None:
    (folder / "s.json").write_text(json.dumps(content))
    said = llm_perf("report", "s.json", "--html", "p.html").error
    assert "s.json" in said or "nothing" in said
    assert not (folder / "p.html").exists()
