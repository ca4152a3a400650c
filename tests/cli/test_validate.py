"""`llm-perf validate`: tables that fit a terminal, JSON that keeps its promises, one line for a bad name."""

import pytest

from calibrate.validate import scoreboard
from calibrate.validate.scoreboard import validate as scoreboard_validate
from tests.validated import validation

CLASS_KEYS = {
    "rows",
    "covered",
    "median_abs_error",
    "mean_abs_error",
    "bias",
    "within_10",
    "within_20",
    "gm",
    "gm_all",
    "rank_correlation",
    "memory_median_abs_error",
    "interval_coverage",
    "worst",
    "baselines",
}
BASELINE_KEYS = CLASS_KEYS - {"memory_median_abs_error", "interval_coverage", "worst", "baselines"}
CLASSES = [
    "resident-1gpu",
    "resident-tp",
    "resident-pp",
    "quantised",
    "edge",
    "offload-cpu",
    "offload-nvme",
    "training",
]


@pytest.fixture(scope="module")
def everything():
    return validation().as_dict()


@pytest.fixture
def of_all_runs(monkeypatch):
    """The command takes what was found of all runs already; runs that it chooses it predicts itself."""

    def validate(*chosen):
        return scoreboard_validate(*chosen) if any(chosen) else validation()

    monkeypatch.setattr(scoreboard, "validate", validate)


def test_the_json_has_every_class_with_every_figure(everything):
    assert everything["schema_version"] == 1
    assert list(everything["classes"]) == CLASSES
    for group in (*everything["classes"].values(), *everything["systems"].values()):
        assert set(group) == CLASS_KEYS
        assert group["covered"] <= group["rows"]
        assert group["interval_coverage"] is None or 0 <= group["interval_coverage"] <= 1
        if group["covered"]:
            assert group["gm"] >= 1
            assert group["gm_all"] >= group["gm"] - 1e-12
            assert 0 <= group["within_10"] <= group["within_20"] <= 1


def test_coverage_counts_intervals_around_predictions_that_never_saw_the_model(everything):
    for name, group in everything["classes"].items():
        rows = [row for row in everything["rows"] if row["class"] == name and row["left_out"]]
        ends = [row["left_out"]["interval"] for row in rows]
        exact = [row for row, interval in zip(rows, ends, strict=True) if interval and not row["one_digit"]]
        assert (group["interval_coverage"] is None) == (not any(ends))
        inside = [
            row["left_out"]["interval"]["low"] <= row["measured"] <= row["left_out"]["interval"]["high"]
            for row in exact
        ]
        if inside and len(exact) == sum(map(bool, ends)):
            assert group["interval_coverage"] == pytest.approx(sum(inside) / len(inside))
    coverage = {name: group["interval_coverage"] for name, group in everything["classes"].items()}
    assert (
        coverage["offload-cpu"] > 0.8
    )  # 90 % promised; with a handful of groups it is measured to some percent
    assert coverage["resident-tp"] > 0.8


def test_simpler_predictors_stand_beside_ours_on_the_same_rows(everything):
    for group in everything["classes"].values():
        for figures in group["baselines"].values():
            assert set(figures) == BASELINE_KEYS
            assert figures["rows"] == group["rows"]
        if group["covered"] > 10:
            assert group["gm"] < group["baselines"]["roofline"]["gm"]
    assert everything["baselines"]["roofline"] == {"flops_efficiency": 0.6, "bandwidth_efficiency": 0.8}
    assert everything["baselines"]["llm_analysis"]["version"].startswith("llm-analysis==")
    covered = {name: group["baselines"].get("llm_analysis") for name, group in everything["classes"].items()}
    assert covered["offload-cpu"]["covered"] == 0  # it knows no offloading
    assert covered["resident-tp"]["covered"] > 150
    assert covered["training"]["covered"] > 200
    assert all(row["baselines"] for row in everything["rows"] if row["predicted"] is not None)


def test_the_worst_rows_of_a_class_are_those_with_the_largest_ratio(everything):
    for name, group in everything["classes"].items():
        rows = {row["row_id"]: row for row in everything["rows"] if row["class"] == name}
        listed = [rows[row_id]["ratio"] for row_id in group["worst"]]
        ratios = sorted((row["ratio"] for row in rows.values() if row["ratio"] is not None), reverse=True)
        assert listed == ratios[: len(listed)]
        assert len(listed) == min(5, group["covered"])


def test_every_row_is_predicted_or_refused_with_a_reason(everything):
    assert len(everything["rows"]) > 750
    for row in everything["rows"]:
        assert (row["predicted"] is None) == bool(row["reason"])
        assert (row["error"] is None) == (row["predicted"] is None)
        assert row["source"]
        assert row["trust"]


def test_rows_and_statistics_agree(everything):
    in_classes = sum(group["rows"] for group in everything["classes"].values())
    unclassed = sum(row["class"] is None for row in everything["rows"])
    assert in_classes + unclassed == len(everything["rows"])
    for name, group in everything["classes"].items():
        rows = [row for row in everything["rows"] if row["class"] == name]
        assert len(rows) == group["rows"]
        assert sum(row["predicted"] is not None for row in rows) == group["covered"]


def test_what_is_no_measurement_is_left_out_and_counted(everything):
    assert everything["excluded"]["status OOM"] == 15
    assert everything["excluded"]["status doubtful"] == 21
    assert sum(everything["excluded"].values()) + len(everything["rows"]) == 912 + 306


def test_serving_stacks_stand_by_version_with_what_is_left_out_and_what_others_say(everything, llm_perf):
    stacks = everything["stacks"]
    known = stacks["versions"]["vllm@0.5"]
    assert known["fitted"] <= known["without_model"] < 1.12
    assert known["roofline"] > known["without_gpu"]
    assert stacks["all"]["rows"] == sum(one["rows"] for one in stacks["versions"].values())
    assert stacks["peers"]["aiconfigurator"]["tpot_median_error"] == 0.127
    shown = llm_perf("validate", "--system", "sglang")
    assert shown.code == 0
    assert "sglang@0.4" in shown.out
    assert "vllm@" not in shown.out
    assert all(len(line) <= 80 for line in shown.out.splitlines())
    assert "aiconfigurator TPOT 12.7%, TTFT 46.7%" in " ".join(shown.out.split())


def test_one_printed_digit_stands_for_its_rounding_interval(everything):
    """0.01 token/s is anything from 0.005 to 0.015: FlexGen paper, Table 2, OPT-175B."""
    row = next(row for row in everything["rows"] if row["row_id"] == 6)
    assert row["one_digit"]
    assert 0.005 < row["predicted"] < 0.015
    assert row["error"] == 0
    assert row["ratio"] == 1
    two_digits = next(row for row in everything["rows"] if row["row_id"] == 175)
    assert not two_digits["one_digit"]


def test_a_system_is_shown_row_by_row_at_80_columns(llm_perf):
    shown = llm_perf("validate", "--system", "deepspeed-zero-inference")
    assert shown.code == 0
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split()[0] == "row"
    assert any(line.split()[:2] == ["156", "opt-175b"] for line in lines)
    assert any(line.startswith("offload-nvme") for line in lines)


def test_the_summary_names_classes_systems_refusals_and_exclusions_at_80_columns(llm_perf, of_all_runs):
    shown = llm_perf("validate")
    assert shown.code == 0
    assert max(map(len, shown.out.splitlines())) <= 80
    for text in (*CLASSES, "zero_inference", "petals", "Not predicted:", "Left out:"):
        assert text in shown.out


def test_json_of_one_system_and_gpu_holds_only_these(llm_perf):
    found = llm_perf("validate", "--system", "zero-inference", "--gpu", "t4", "--json").json
    assert {row["system"] for row in found["rows"]} == {"zero_inference"}
    assert {row["gpu"] for row in found["rows"]} == {"T4-16GB"}
    assert list(found["systems"]) == ["zero_inference"]


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (("--system", "zero_inferense"), "zero_inference"),
        (("--gpu", "t44"), "t4"),
        (("--gpu", "l4"), "no published run"),
        (("--system", "deepspeed_inference"), "no published run"),
        (("--system", ""), "system"),
        (("--nonsense",), "nonsense"),
    ],
    ids=" ".join,
)
def test_bad_names_end_with_one_line_and_exit_2(llm_perf, arguments, mentioned):
    shown = llm_perf("validate", *arguments)
    assert shown.code == 2
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert mentioned in shown.err


def test_columns_of_long_sequences_do_not_run_together():
    from llm_perf.report.validation_text import rows_table

    row = {"row_id": 85, "model": "MPT-13b", "num_gpus": 512, "gpu": "a100_80gb", "batch_size": 99999, "seq_len": 65536,
           "prompt_len": 0, "gen_len": None, "quantity": "iteration_time_s", "measured": 96.7, "predicted": 101.0,
           "error": 0.044, "one_digit": False}  # fmt: skip
    header, line = rows_table([row]).splitlines()
    assert line.split()[3:6] == ["99999", "65536", "-"]
    assert len(header) == len(line) == 80


def test_petals_says_what_would_explain_its_rows(llm_perf):
    """Its predictions hold the stated 5 ms per message; the command itself says what the rows would need."""
    outcome = llm_perf("validate", "--system", "petals")
    assert outcome.code == 0
    assert "75 to 176 ms per message" in " ".join(outcome.out.split())
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    assert "per message" not in llm_perf("validate", "--system", "accelerate").out


def test_the_columns_of_the_summary_do_not_run_together(llm_perf, of_all_runs):
    """Petals' bias is more than twice, which once ran into the column before it."""
    lines = llm_perf("validate").out.split("\n\nErrors:")[0].splitlines()
    tables = [line.split() for line in lines if line]
    assert {len(words) for words in tables} == {13}
    assert next(words for words in tables if words[0] == "petals")[4] == "x2.2"
