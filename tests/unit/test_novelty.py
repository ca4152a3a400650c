"""What of a question no run of its stack has, and what that does to its interval."""

import math

import pytest

from calibrate.validate import requests
from calibrate.validate.novelty import folds_of, known_of, novel_lines, read_levels
from calibrate.validate.request_widths import request_widths
from calibrate.validate.stacks import (
    BESIDE,
    REFITS,
    highest_level,
    level_width,
    novel_widths,
    read_left_out,
)
from llm_perf.analysis import stack_intervals
from llm_perf.analysis.evidence import published_widths
from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.novelty import (
    LEVELS,
    MAKER,
    MECHANISM,
    REGIME,
    UNSEEN,
    levels_of,
    measured,
    novelty,
    question_of,
)
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.request_intervals import AT_ONCE, CLOSED, RATE
from llm_perf.analysis.simulation import ServiceInputs, simulation_of
from llm_perf.analysis.stack_intervals import stack_width
from llm_perf.report.inference_json import result_object
from llm_perf.report.simulate_json import interval_object

LINES = read_left_out()
SEEN = {
    "model": "llama-3.1-8b", "gpu": "h100-sxm-80gb", "system": "vllm@0.12", "batch_size": 16, "prompt_len": 1000,
    "gen_len": 1000,
}  # fmt: skip


def scenario(**changes):
    return build_scenario(InferenceInputs(**(SEEN | changes)))


def new(**changes):
    """Facets that are new to the version's rows, and the levels that they reach."""
    asked = scenario(**changes)
    file = stack_intervals.system_of(asked).file
    question = question_of(asked)
    found = novelty(question, measured(f"{file.name}@{file.release}"))
    return {one.facet for one in found}, set(levels_of(found, novelty(question, measured(file.name))))


# -- facets ---------------------------------------------------------------------------------------------------


def test_a_question_is_described_by_what_decides_which_kernels_run():
    found = question_of(
        scenario(
            model="deepseek-ai/DeepSeek-V3.2", gpu="b200", num_gpus=8, tp_size=8, ep_size=8, kv_format="fp8"
        )
    )
    assert (found.maker, found.generation, found.cache) == ("nvidia", "blackwell", "8 bits")
    assert found.weights == {"fp8_block experts"}
    assert {"selected latent-attention", "expert", "shared-expert"} <= found.layers
    assert found.parallelism == {"tensor ranks", "expert ranks"}
    assert found.sizes == {"sequences": 16.0, "context": 2000.0}


@pytest.mark.parametrize(
    ("changes", "facets", "levels"),
    [
        ({}, set(), set()),
        ({"batch_size": 2048}, {"sequences"}, {REGIME}),
        ({"prompt_len": 100_000, "allow_long_context": True}, {"context"}, {REGIME}),
        ({"gpu": "a100-sxm-80gb"}, set(), set()),  # a library's products, and rows of gpt-oss there
        ({"weight_format": "fp8", "system": "vllm@0.15"}, {"weights"}, {REGIME, MECHANISM}),
        ({"weight_format": "nf4"}, {"weights"}, {REGIME, MECHANISM, UNSEEN}),
        ({"gpu": "b300-sxm"}, {"generation"}, {REGIME}),
        ({"gpu": "b300-sxm", "weight_format": "fp8"}, {"generation", "weights"}, {REGIME, MECHANISM, UNSEEN}),
        (
            {"gpu": "mi355x", "system": "vllm@0.15"},
            {"maker", "generation"},
            {REGIME, MAKER},
        ),
        ({"num_gpus": 2, "pp_size": 2}, {"parallelism"}, {REGIME, MECHANISM, UNSEEN}),
    ],
    ids=lambda one: str(sorted(one)),  # a set of words has no order
)
def test_what_is_new_to_the_rows_of_a_version(changes, facets, levels):
    assert new(**changes) == (facets, levels)


def test_the_file_has_each_version_with_a_width_and_its_family():
    for release in published_widths("stack_widths.yaml")["releases"]:
        assert measured(release), release
        assert measured(release.partition("@")[0]), release
    # A file for one maker's devices without rows of its own has those of the version that it inherits from.
    assert measured("sglang@0.5-cdna3") == measured("sglang@0.5")
    assert measured("vllm@0.1") is None or measured("vllm@0.1")["maker"]


def test_ranges_hold_every_row_and_are_by_kind_of_layer():
    dense, experts = (
        question_of(scenario(batch_size=7)),
        question_of(scenario(model="mixtral-8x7b", batch_size=333)),
    )
    known = known_of([dense, experts])
    assert known["sizes"]["all"]["sequences"] == [7.0, 333.0]
    assert known["sizes"]["expert"]["sequences"] == [333.0, 333.0]
    assert not novelty(dense, known)
    assert {
        one.facet for one in novelty(question_of(scenario(model="mixtral-8x7b", batch_size=7)), known)
    } == {"sequences"}


def test_small_groups_are_left_out_together():
    names = ["a"] * 6 + ["b"] * 5 + ["c"]
    assert folds_of(names, [True] * 12) == ["a"] * 6 + [""] * 6
    assert folds_of(["a", "b"], [False, True]) == ["a", ""]  # a's rows are in no fit


def test_a_fit_without_a_model_has_not_seen_what_that_model_alone_has():
    rows = {
        "vllm@0.12": {
            **{str(one): question_of(scenario()) for one in range(6)},
            **{str(one): question_of(scenario(weight_format="awq")) for one in range(6, 12)},
        }
    }
    lines = [
        {"release": "vllm@0.12", "row_id": str(one), "how": "model", "group": "ab"[one // 6]}
        for one in range(12)
    ]
    found = novel_lines(lines, rows, lambda release, row_id: True)
    whole = f"{REGIME}+{MECHANISM}+{UNSEEN}"
    assert [line["levels"] for line in found] == [whole] * 12  # neither format is the other's
    rows["vllm@0.12"]["0"] = question_of(scenario(weight_format="awq"))
    found = novel_lines(lines, rows, lambda release, row_id: True)
    assert [line["levels"] for line in found] == ["", *[whole] * 5, *[""] * 6]


def test_levels_are_of_todays_lines():
    """Every line by a fit that had not seen its row has a level, or nobody can say."""
    hows = (*BESIDE, *REFITS)
    keys = {(line["release"], line["row_id"], line["how"]) for line in LINES if line["how"] in hows}
    known = {key for key in read_levels() if key[2] in hows}
    assert known <= keys, "run bench/stack_figures.py --novelty"
    assert len(known) > 0.9 * len(keys)  # some stand-ins, and fits without a stack's one model, have no rows
    assert {level for levels in read_levels().values() for level in levels} == set(LEVELS)


# -- widths ---------------------------------------------------------------------------------------------------


def test_widths_of_what_is_new_hold_nine_tenths_of_versions_left_out():
    for level in (None, *LEVELS[:3]):
        found, _ = level_width(LINES, level, BESIDE)
        assert 0.85 <= found.held / found.tested <= 0.95, level
        assert found.width <= math.log(2.5), level
    seen, _ = level_width(LINES, None, REFITS)
    assert 0.85 <= seen.held / seen.tested <= 0.95
    assert seen.width <= math.log(1.25) + 5e-3


def test_a_higher_level_is_no_narrower_and_adds_no_less():
    found = list(novel_widths(LINES).values())
    assert [one[0].width for one in found] == sorted(one[0].width for one in found)
    assert [one[2] for one in found] == sorted(one[2] for one in found)
    assert all(0 < adds < held.width for held, _, adds in found)


def test_what_rows_had_is_not_new_to_their_own_fits():
    """A level is of what was left out: most rows of a version without one model have nothing new but the model."""
    own = [line for line in LINES if line["how"] in REFITS]
    share = sum(highest_level(line) is None for line in own) / len(own)
    assert 0.3 < share < 0.6


def test_widths_of_requests_hold_nine_tenths_of_models_and_gpus_left_out():
    found = request_widths(requests.read_predicted())
    assert {load for load, _ in found} == {CLOSED, RATE, AT_ONCE}
    for key, (held, groups) in found.items():
        assert 0.85 <= held.held / held.tested <= 0.97, key
        assert groups >= 9
        stated = published_widths("stack_widths.yaml")["requests"][key[0]][key[1]]
        assert stated["width"] == pytest.approx(held.width, abs=1e-4), "run make accuracy"


# -- answers --------------------------------------------------------------------------------------------------


def test_a_question_with_nothing_new_keeps_its_version_s_width():
    entry = published_widths("stack_widths.yaml")["releases"]["vllm@0.12"]["model"]
    found = stack_width(scenario())
    assert (found.value, found.novel) == (entry["width"], ())


def test_an_answer_says_what_no_run_has():
    found = predict_inference(scenario(gpu="b200", weight_format="awq"))
    assert found.interval.novel == ("weight-only layers on blackwell",)
    assert "no run of vllm@0.12 has weight-only layers on blackwell" in found.interval.method
    assert result_object(found, {})["interval"]["novel"] == ["weight-only layers on blackwell"]


def test_a_version_that_does_not_ship_is_no_surer_of_what_is_new():
    for changes in ({}, {"batch_size": 2048}, {"weight_format": "nf4"}):
        assert (
            stack_width(scenario(system="vllm@0.99", **changes)).value
            >= stack_width(scenario(system="vllm@0.15", **changes)).value
        ), changes


def service(concurrency=None, rate=None, count=64, **changes):
    lengths = {"prompt_len": "1000", "gen_len": "100"}
    traffic = ServiceInputs(concurrency=concurrency, rate=rate, num_requests=count, **lengths)
    asked = {name: value for name, value in (SEEN | changes).items() if name not in ("batch_size", *lengths)}
    return simulation_of(InferenceInputs(**asked), traffic)


@pytest.mark.parametrize(
    ("asked", "load"),
    [
        ({"concurrency": 8}, CLOSED),
        ({"rate": 4.0}, RATE),
        ({"rate": math.inf}, AT_ONCE),
        ({"concurrency": 60, "max_num_seqs": 8}, AT_ONCE),
    ],
    ids=["closed", "rate", "at once", "more in flight than places"],
)
def test_intervals_of_requests_are_no_narrower_than_their_rows_were_off(asked, load):
    found = service(**asked).interval
    assert found.load == load
    widths = published_widths("stack_widths.yaml")["requests"][load]
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        for figure in ("mean", "p50", "p95"):
            low, high = found.ends(name, figure)
            middle = getattr(found.middle, name).percentile(figure)
            assert low <= middle <= high
            if name in widths:
                assert math.log(high / middle) >= widths[name]["width"] - 1e-9
    low, high = found.throughput("output_tokens_per_s")
    assert low < found.middle.output_tokens_per_s < high
    assert interval_object(found)["throughput"]["output_tokens_per_s"] == [low, high]


def test_no_first_token_and_no_step_is_quicker_than_hardware():
    found = service(concurrency=8)
    low, _ = found.interval.ends("tpot_s", "mean")
    assert low >= found.interval.least["tpot_s"] * found.summary.tpot_s.mean - 1e-12
    low, _ = found.interval.ends("ttft_s", "mean")
    assert low >= found.interval.least["ttft_s"] * found.summary.ttft_s.mean - 1e-12
    assert 0 < found.interval.least["ttft_s"] < 1


def test_many_in_flight_are_new_even_where_few_run():
    """Rows of closed loops count who is in flight: 2,048 with eight places are none that a row has."""
    found = service(concurrency=2048, count=2048, max_num_seqs=8).interval
    assert found.novel == ("2,048 sequences at once",)
    assert found.factors[1] > service(concurrency=8).interval.factors[1]


def test_one_sequence_is_named_in_the_singular() -> None:
    asked = InferenceInputs(model="qwen3-30b-a3b", gpu="h200-sxm-141gb", system="vllm", batch_size=1)
    found = predict_inference(build_scenario(asked)).interval
    assert found is not None
    assert "1 sequence at once" in found.novel
