"""Intervals without a profile: widths from residuals of left-out rows, and which question gets which."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from calibrate.validate.evidence import Residuals, evidence_files
from calibrate.validate.left_out import LeftOutRow, as_csv, load_left_out, parse_left_out
from llm_perf.analysis.evidence import ANY, RESIDENT, accuracy_class, entries_of, evidence_of, pool_of
from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.stack_intervals import width_of_another_maker
from llm_perf.analysis.training import predict_training
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.errors import SpecError
from llm_perf.report.inference_json import result_object
from llm_perf.systems.expert_offload import ExpertOffload
from llm_perf.systems.registry import get_system, runs_there, system_names
from tests.validated import validation

ROOT = Path(__file__).parents[2]
MODEL = ("flexgen", "offload-cpu", "nvidia", "model")


def line(group, log_ratio, row_id=1, quantity="throughput_tokens_per_s", system="flexgen"):
    return LeftOutRow(
        "inference",
        row_id,
        system,
        "offload-cpu",
        "nvidia",
        "model",
        group,
        quantity,
        (1 + row_id) * math.exp(log_ratio),  # 1 + row_id was measured
        log_ratio,
    )


def rows(by_group, **changes):
    """Lines of {group: log ratios}, each of a row of its own."""
    pairs = [(group, ratio) for group, ratios in by_group.items() for ratio in ratios]
    return [line(group, ratio, row_id, **changes) for row_id, (group, ratio) in enumerate(pairs)]


def ask(**inputs):
    return predict_inference(
        build_scenario(
            InferenceInputs(**({"model": "opt-30b", "gpu": "t4", "ds_zero": 3, "cpu_offload": True} | inputs))
        )
    )


# -- widths ---------------------------------------------------------------------------------------------------


def test_the_width_is_the_largest_among_the_groups():
    found = Residuals(rows({"a": [0.1, -0.1, 0.1, 0.1, 0.1], "b": [-0.3, 0.2, 0.2, 0.2, 0.2]}))
    assert found.width(MODEL, "total", without="flexgen: b") is None  # five residuals have no 90 % quantile
    assert found.width(MODEL, "total") == pytest.approx(0.3)


def test_a_group_knows_nothing_of_its_own_width():
    found = Residuals(rows({"a": [0.1] * 9, "b": [-0.3, *[0.2] * 9]}))
    assert found.inside(MODEL) == (9, 19)  # a within b's 0.3, none of b within a's 0.1
    assert found.width(MODEL, "total", without="flexgen: b") == pytest.approx(0.1)


def test_an_entry_says_how_much_it_rests_on():
    found = Residuals(rows({"a": [0.1, -0.1, 0.1, 0.1, 0.1], "b": [-0.3, 0.2, 0.2, 0.2, 0.2]}))
    assert found.width(MODEL, "total") == pytest.approx(0.3)
    assert found.widths(MODEL) == {
        "groups": 2,
        "rows": 10,
        "held": 0,
        "tested": 0,
        "prefill": None,
        "decode": None,
        "total": pytest.approx(0.3),
    }


@pytest.mark.parametrize(
    "by_group",
    [{"a": [0.1] * 30}, {"a": [0.1] * 4, "b": [0.1] * 4}],
    ids=["one group", "fewer residuals than a 90 % quantile takes"],
)
def test_too_little_gives_no_width(by_group):
    assert Residuals(rows(by_group)).width(MODEL, "total") is None


def test_where_a_system_has_too_little_all_of_its_class_stand_in():
    few, many = rows({"a": [0.4]}), rows({"a": [0.1] * 9, "b": [0.2] * 9}, system="zero_inference")
    found = Residuals([*few, *[line(x.group, x.log_ratio, x.row_id + 100, system=x.system) for x in many]])
    assert found.width(MODEL, "total") is None
    assert found.width((ANY, *MODEL[1:]), "total") == pytest.approx(0.4)
    # The row's own group does not widen its own interval: others' largest is 0.2.
    interval = found.interval(few[0])
    assert math.log(interval.high / interval.low) / 2 == pytest.approx(0.2)


def test_a_time_per_token_speaks_for_the_total_where_no_total_is_stated():
    decode = rows({"a": [0.1] * 5, "b": [0.2] * 5}, quantity="latency_per_token_s")
    assert Residuals(decode).width(MODEL, "total") == pytest.approx(0.2)
    total = [line(x.group, 0.05, x.row_id) for x in decode]
    assert Residuals([*decode, *total]).width(MODEL, "total") == pytest.approx(0.05)


residuals = st.dictionaries(
    st.sampled_from("abcdefgh"), st.lists(st.floats(-2, 2), min_size=5, max_size=12), min_size=2
)


def test_cards_with_one_chip_are_one_gpu():
    """An A100 with 40 GB says of an A100 with 80 GB what it would not say of another GPU."""
    gpus = {"A100-SXM-40GB": [0.1] * 9, "A100-SXM-80GB": [0.2] * 9}
    key = (*MODEL[:3], "gpu")
    assert Residuals([replace(x, leave_out="gpu") for x in rows(gpus)]).width(key, "total") is None
    found = Residuals([replace(x, leave_out="gpu") for x in rows(gpus | {"T4-16GB": [0.1] * 9})])
    assert found.width(key, "total") == pytest.approx(0.2)
    assert found.width(key, "total", without="ampere of 108") == pytest.approx(0.1)
    assert found.widths(key)["groups"] == 2


def test_a_run_that_several_sources_print_counts_once():
    distinct = rows({"a": [0.1, *[0.2] * 8], "b": [0.3]})
    again = [replace(distinct[0], row_id=900 + n) for n in range(50)]
    found = Residuals([*distinct, *again])
    assert found.widths(MODEL) == Residuals(distinct).widths(MODEL)
    assert found.widths(MODEL)["rows"] == 10


def test_classes_on_the_gpu_stand_in_for_each_other_where_a_gpu_is_unknown():
    assert pool_of("resident-tp", "gpu") == pool_of("quantised", "gpu") == RESIDENT
    assert pool_of("resident-tp", "model") == "resident-tp"
    assert pool_of("offload-cpu", "gpu") == "offload-cpu"
    gpus = evidence_of(ANY, RESIDENT, "nvidia").machines
    assert {"T4-16GB", "A100-SXM-80GB", "L40S-48GB", "H100-SXM-80GB"} <= set(gpus)


@given(residuals)
def test_widths_keep_their_order(by_group):
    """A phase's is no narrower than the total's; without one of a few groups nothing widens; signs do not matter."""
    lines = [*rows(by_group), *rows(by_group, quantity="prefill_latency_s")]
    found = Residuals(lines)
    total = found.width(MODEL, "total")
    assert found.width(MODEL, "prefill") >= total
    for group in by_group:
        left = found.width(MODEL, "total", without=f"flexgen: {group}")
        assert left is None or left <= total
    mirrored = Residuals(rows({group: [-x for x in values] for group, values in by_group.items()}))
    assert mirrored.width(MODEL, "total") == pytest.approx(total)


@given(st.integers(0, 2**32 - 1))
def test_intervals_cover_what_they_promise_where_groups_are_alike(seed):
    """Rows of many groups that differ by as much as rows in a group: nine in ten and more are inside."""
    import numpy as np

    draw = np.random.default_rng(seed)
    lines = rows({str(group): list(draw.normal(0, 0.1, 12)) for group in range(12)})
    found = Residuals(lines)
    inside = [
        interval.low <= 1 + x.row_id <= interval.high
        for x in lines
        if (interval := found.interval(x)) is not None
    ]
    assert len(inside) == len(lines)
    assert sum(inside) / len(inside) > 0.85


def test_the_file_of_rows_is_read_as_it_was_written():
    lines = load_left_out()
    assert as_csv(lines) == as_csv(parse_left_out(as_csv(lines)))
    assert {x.system for x in lines} >= {"zero_inference", "flexgen", "fastertransformer", "llama_cpp"}


def test_a_faulty_file_of_rows_is_named_with_its_line():
    text = as_csv([line("a", 0.1)])
    with pytest.raises(SpecError, match=r"left_out\.csv: column 'group' is missing"):
        parse_left_out(text.replace("group", "groups"))
    with pytest.raises(SpecError, match=r"left_out\.csv:2: .*'x'"):
        parse_left_out(text.replace("0.1000", "x"))


def test_the_yaml_holds_every_width_rounded_up():
    texts = evidence_files(load_left_out(), validation().rows)
    folder = ROOT / "llm_perf" / "analysis" / "left_out"
    assert {file.stem: file.read_text("utf-8") for file in folder.glob("*.yaml")} == texts
    found = Residuals(load_left_out())
    for key in found.keys:
        exact, entry = found.width(key, "total"), evidence_of(*key[:3])
        shipped = entry.left_out.get(key[3])
        assert (shipped is None) == (exact is None)
        if exact is not None:
            assert exact <= shipped.total <= exact + 1.1e-4


# -- questions ------------------------------------------------------------------------------------------------


def test_an_unknown_gpu_is_less_certain_than_a_known_one():
    known, host, gpu = ask(), ask(host="dgx-2"), ask(gpu="h200")
    widths = [math.log(x.interval.total_s[1] / x.interval.total_s[0]) / 2 for x in (known, host, gpu)]
    assert widths[0] < widths[1] == pytest.approx(widths[2])
    assert "without their model" in known.interval.method
    assert "none on T4-16GB in host dgx-2" in host.interval.method
    assert "none on H200-SXM-141GB" in gpu.interval.method


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_an_interval_holds_its_prediction_and_its_throughput(batch):
    result = ask(batch_size=batch)
    low, high = result.interval.total_s
    assert low < result.total_latency_s < high
    assert low * high == pytest.approx(result.total_latency_s**2)
    slow, fast = result_object(result, {})["interval"]["total_throughput_tokens_per_s"]
    assert slow < result.total_throughput_tokens_per_s < fast
    assert fast * low == pytest.approx(slow * high)


@pytest.mark.parametrize("system", ["vllm@0.6", "vllm@0.15", "sglang@0.5", "tensorrt_llm@1.1"])
@pytest.mark.parametrize(
    "flags", [{"weight_bits": 4}, {"weight_bits": 8}, {"weight_format": "awq"}, {"quant_bits": 4}]
)
def test_the_bound_of_the_data_sheet_is_below_the_prediction(system, flags):
    """What the generic stack's kernels reach is no bound of another stack's."""
    shape = {"model": "qwen2.5-32b", "gpu": "rtx-4000-ada-20gb", "prompt_len": 16, "gen_len": 128}
    result = predict_inference(build_scenario(InferenceInputs(**shape, system=system, **flags)))
    interval = result.interval
    assert interval is not None
    assert interval.decode_s[0] <= result.decode.latency_s <= interval.decode_s[1]
    assert interval.total_s[0] <= result.total_latency_s <= interval.total_s[1]


@pytest.mark.parametrize(
    ("system", "gpu"),
    [
        (system, gpu)
        for system in ("vllm@0.6", "vllm@0.7", "sglang@0.5", "tensorrt_llm@0.9", "lmdeploy")
        for gpu in ("a100-sxm-80gb", "rtx-4090", "mi300x")
        if gpu != "mi300x" or system.startswith(("vllm", "sglang"))
    ],
)
def test_first_tokens_of_serving_stacks_have_an_interval_above_the_roof(system, gpu):
    asked = {"model": "llama-3-8b", "gpu": gpu, "prompt_len": 2000, "gen_len": 2, "system": system}
    result = predict_inference(build_scenario(InferenceInputs(**asked)))
    low, high = result.interval.prefill_s
    assert low <= result.ttft_s <= high
    parameters, peak = 7.5e9, max(result.scenario.gpu.peak_tflops.values()) * 1e12
    assert low >= min(2 * parameters * 2000 / peak, result.ttft_s)
    assert 1.1 < math.sqrt(high / low) < 2.5


@pytest.mark.parametrize("system", ["sglang@0.5.7", "vllm@0.15"])
def test_kernels_of_one_device_that_no_fit_left_out_are_as_uncertain_as_another_version(system):
    asked = {"model": "deepseek-v3", "gpu": "mi300x", "num_gpus": 8, "tp_size": 8, "system": system}
    interval = predict_inference(build_scenario(InferenceInputs(**asked))).interval
    assert "another version" in interval.method
    known = predict_inference(build_scenario(InferenceInputs(**asked | {"gpu": "h200-sxm"}))).interval
    assert half_width(interval.decode_s) > 1.3 * half_width(known.decode_s)


@pytest.mark.parametrize(("gpu", "maker"), [("mi355x", "amd"), ("gaudi3", "intel")])
def test_a_maker_that_no_run_of_a_version_has_is_as_uncertain_as_another_version(gpu, maker):
    asked = {"model": "llama-3-8b", "gpu": gpu, "system": "vllm@0.15"}
    interval = predict_inference(build_scenario(InferenceInputs(**asked))).interval
    assert "another version" in interval.method, maker
    known = predict_inference(build_scenario(InferenceInputs(**asked | {"gpu": "gb300"}))).interval
    assert half_width(interval.decode_s) > 1.3 * half_width(known.decode_s)


def test_it_widens_with_the_distance_from_what_the_runs_cover():
    near, far, farther = (ask(model="llama-3-8b", batch_size=batch) for batch in (1024, 4096, 16384))
    assert near.interval.outside == 1
    widths = [math.log(x.interval.total_s[1] / x.total_latency_s) for x in (near, far, farther)]
    assert widths[0] < widths[1] < widths[2]
    assert near.interval.outside <= far.interval.outside < farther.interval.outside


def half_width(ends):
    return math.log(ends[1] / ends[0]) / 2


PLAIN = {"ds_zero": 0, "cpu_offload": False, "model": "llama-3-8b"}
LLAMA_CPP = PLAIN | {"gpu": "rtx-4090", "system": "llama_cpp", "quant_bits": 4, "prompt_len": 8000}


def test_a_total_that_is_mostly_prefill_is_as_uncertain_as_the_prefill():
    one, two, many = (ask(**LLAMA_CPP, gen_len=gen) for gen in (1, 2, 150))
    prefill = half_width(one.interval.prefill_s)
    assert half_width(one.interval.total_s) == pytest.approx(prefill)
    assert half_width(two.interval.total_s) == pytest.approx(prefill, rel=0.02)
    assert half_width(many.interval.total_s) < 0.8 * prefill


@pytest.mark.parametrize("gen_len", [1, 2, 8, 128])
def test_no_total_is_narrower_than_what_one_phase_makes_of_it(gen_len):
    result = ask(**LLAMA_CPP, gen_len=gen_len)
    for phase, ends in (
        (result.prefill, result.interval.prefill_s),
        (result.decode, result.interval.decode_s),
    ):
        if phase is not None:
            share = phase.latency_s / result.total_latency_s
            assert half_width(result.interval.total_s) >= share * half_width(ends) - 1e-12


def test_what_is_generated_does_not_widen_a_prefill():
    vllm = PLAIN | {
        "model": "llama-3-70b",
        "gpu": "a100-sxm-80gb",
        "tp_size": 8,
        "system": "vllm@0.2",
        "prompt_len": 2048,
    }
    widths = [half_width(ask(**vllm, gen_len=gen).interval.prefill_s) for gen in (1, 2, 256)]
    assert widths == pytest.approx([widths[0]] * 3)


def test_another_gpu_is_never_more_certain_than_one_with_runs():
    for inputs in (
        PLAIN | {"model": "llama-3-70b", "system": "vllm@0.2", "tp_size": 8},
        PLAIN | {"system": "fastertransformer"},
        PLAIN | {"model": "llama-3-70b", "system": "gpt_fast", "tp_size": 8},
    ):
        known, other = ask(**inputs, gpu="a100-sxm-80gb"), ask(**inputs, gpu="h100-sxm")
        assert half_width(known.interval.total_s) <= half_width(other.interval.total_s)
        assert f"none on {other.scenario.gpu.name}" in other.interval.method


def test_sizes_are_compared_with_those_of_the_runs_that_the_width_is_of():
    """gpt-fast's runs have prompts of five tokens, those that stand in for them have long ones too."""
    found = ask(**PLAIN, gpu="a100-sxm-80gb", system="gpt_fast", quant_bits=8, prompt_len=512, gen_len=200)
    assert found.interval.outside == 1
    assert "all systems with quantised weights" in found.interval.method


def test_machines_that_were_changed_are_not_those_of_the_runs():
    scenario = build_scenario(InferenceInputs(**PLAIN, gpu="a100-sxm-80gb", system="fastertransformer"))
    faster = scenario.gpu.replace(hbm_bandwidth_gb_per_s=2 * scenario.gpu.hbm_bandwidth_gb_per_s)
    assert predict_inference(scenario).interval is not None
    assert "a profile took the place" in predict_inference(scenario.replace(gpu=faster)).no_interval
    own = predict_inference(scenario.replace(gpu=faster.replace(name="my GPU", aliases=())))
    assert "none on my GPU" in own.interval.method


def test_a_profile_without_an_interval_says_why():
    foreign = ask(**PLAIN, gpu="h200", profile="example-epyc-2-cores")
    assert (foreign.interval, foreign.no_interval.partition(" was fitted on ")[0]) == (
        None,
        "profile example-epyc-2-cores",
    )
    gpu = foreign.scenario.calibration.machine.gpu
    own = foreign.scenario.replace(gpu=foreign.scenario.gpu.replace(name=gpu, aliases=()))
    other = predict_inference(own.replace(system="vllm"))
    assert other.no_interval == "profile example-epyc-2-cores has no runs of system vllm"
    bare = predict_inference(own.replace(calibration=own.calibration.replace(interval=None)))
    assert bare.no_interval == "profile example-epyc-2-cores was fitted without leaving runs out"
    assert predict_inference(own).interval is not None


def test_the_generic_system_is_in_the_classes_that_a_question_to_it_has():
    for entry in entries_of("resident"):
        assert entry.accuracy_class.startswith("resident") or entry.accuracy_class == "quantised"
    stacks = {x.group for x in load_left_out() if x.system == "resident" and x.accuracy_class == "quantised"}
    assert {"llama_cpp", "exllama", "tensorrt_llm"} <= stacks


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({"flops_efficiency": 0.5}, "--flops-efficiency took the place"),
        ({"ds_zero": 0, "cpu_offload": False, "system": "engine", "model": "opt-1.3b"},
         "no published run of system engine on one GPU in 16 bits ships"),
        ({"ds_zero": 0, "cpu_offload": False, "model": "llama-3-8b", "gpu": "max-1550"}, "on a device of intel"),
        ({"model": "mixtral-8x7b-v0.1"}, "is of a mixture of experts model"),
        ({"quant_bits": 8}, "has 8-bit weights"),
        ({"ds_zero": 0, "cpu_offload": False, "model": "llama-3-8b", "gpu": "h200", "prefix_hit_rate": 0.5},
         "no published run used --prefix-hit-rate"),
        (PLAIN | {"gpu": "h100-sxm", "system": "llama_cpp", "batch_size": 256, "gen_len": 128},
         "batch 256: farther than published runs of llama_cpp reach (1)"),
        (PLAIN | {"gpu": "a100-sxm-80gb", "system": "fastertransformer", "gen_len": 1},
         "no published run of fastertransformer states the prefill alone"),
        (PLAIN | {"gpu": "a100-sxm-80gb", "system": "fastertransformer", "kv_bits": 8},
         "no published run of fastertransformer has a KV cache of 8 bits"),
        (PLAIN | {"gpu": "h100-sxm", "tp_size": 16, "num_nodes": 2, "system": "vllm@0.2", "model": "bloom"},
         "no published run of vllm has more than one node"),
        (PLAIN | {"gpu": "apple-m3-max"}, "on devices of apple are of too few stacks"),
        (PLAIN | {"gpu": "mi300x"}, "on devices of amd are of too few stacks"),
        ({"ds_zero": 0, "cpu_offload": False, "system": "petals"}, "do not say what their clients asked for"),
    ],
)  # fmt: skip
def test_where_no_run_says_anything_a_sentence_says_why(inputs, why):
    result = ask(**inputs)
    assert result.interval is None
    assert why in result.no_interval
    found = result_object(result, {})
    assert (found["interval"], found["no_interval"]) == (None, result.no_interval)


def test_either_an_interval_or_a_reason():
    for system in system_names():
        gpu, host = ("h100-pcie-80gb", "h100-spr-host") if system == "lia" else ("t4", None)
        gpus = (gpu, "gaudi2", "h200", "mi300x")
        gpu = next(name for name in gpus if runs_there(system, get_gpu_config_by_name(name)))
        model = "mixtral-8x7b" if isinstance(get_system(system), ExpertOffload) else "opt-1.3b"
        result = ask(model=model, gpu=gpu, host=host, ds_zero=0, cpu_offload=False, system=system)
        assert (result.interval is None) == (result.no_interval is not None)


def test_systems_and_machines_of_the_file_exist():
    systems = [file.stem for file in (ROOT / "llm_perf" / "analysis" / "left_out").glob("*.yaml")]
    for system in systems:
        for entry in entries_of(system):
            gpus = {name: get_gpu_config_by_name(name) for name in entry.machines}
            assert all(gpu.vendor.lower() == entry.vendor for gpu in gpus.values())
            assert all(gpu.name == name for name, gpu in gpus.items())
            assert entry.system == system
            if entry.accuracy_class != "training" and system != ANY:
                assert get_system(system).name == system


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (("petals", 1, 0, 8, 4, 1), None),
        (("llama_cpp", 0.5, 0, 4, 1, 1), "edge"),
        (("flexgen", 0, 0.2, 4, 1, 1), "offload-nvme"),
        (("flexgen", 0.9, 0, 4, 1, 1), "offload-cpu"),
        (("vllm@0.2", 1, 0, 8, 8, 2), "quantised"),
        (("vllm@0.2", 1, 0, 16, 8, 2), "resident-pp"),
        (("vllm@0.2", 1, 0, 16, 8, 1), "resident-tp"),
        (("vllm@0.2", 1, 0, 32, 1, 1), "resident-1gpu"),
    ],
)
def test_accuracy_classes(asked, name):
    assert accuracy_class(*asked) == name


@pytest.mark.parametrize("weight_format", ["awq", "fp8", "int8", "fp16"])
@pytest.mark.parametrize(
    ("gpu", "system"), [("rtx-4090", "vllm"), ("a100-sxm-80gb", "vllm"), ("l40s", "vllm@0.6")]
)
def test_an_interval_of_a_version_holds_its_prediction(gpu, system, weight_format):
    """Kernels that unpack weights reach the peaks too in the time that no interval goes below."""
    found = ask(
        model="qwen3-32b", gpu=gpu, system=system, weight_format=weight_format, ds_zero=0, cpu_offload=False
    )
    assert found.interval.decode_s[0] <= found.decode.latency_s <= found.interval.decode_s[1]
    assert found.interval.total_s[0] <= found.total_latency_s <= found.interval.total_s[1]


@pytest.mark.parametrize("system", ["ktransformers", "llama_cpp"])
def test_a_divided_model_on_gpus_that_no_run_has_is_as_unsure_as_a_stack_there(system: str) -> None:
    """All published runs whose CPU computes beside a GPU have one of NVIDIA's."""
    asked = {"model": "qwen3-30b-a3b", "host": "epyc-9654", "system": system}
    asked |= {"n_cpu_moe": 48} if system == "llama_cpp" else {}
    known, other = (
        predict_inference(build_scenario(InferenceInputs(gpu=gpu, **asked)))
        for gpu in ("h100-sxm-80gb", "mi300x")
    )
    assert known.interval is not None
    assert other.interval is not None
    widths = [one.interval.decode_s[1] / one.decode.latency_s for one in (known, other)]
    assert widths[1] == pytest.approx(math.exp(width_of_another_maker()))
    assert widths[1] > widths[0]
    assert "none with GPUs of amd" in other.interval.method


def test_fine_tuning_on_gpus_that_no_run_has_is_as_unsure_as_a_stack_there() -> None:
    asked = {"model": "llama-3.1-8b", "framework": "hf_trainer", "lora_rank": 16}
    known, other = (
        predict_training(build_training_scenario(TrainingInputs(gpu=gpu, **asked))).interval
        for gpu in ("h100-sxm-80gb", "mi300x")
    )
    assert known is not None
    assert other is not None
    least = max(math.exp(width_of_another_maker()), known.total_factor)
    assert other.total_factor == pytest.approx(least)


@pytest.fixture
def nobodys(tmp_path: Path) -> str:
    """A GPU file of one's own that names neither vendor nor architecture."""
    data = get_gpu_config_by_name("l4").model_dump(mode="json", exclude_none=True)
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({**data, "name": "own", "vendor": None, "architecture": None}))
    return str(file)


def test_a_gpu_of_no_named_maker_is_called_so(nobodys: str) -> None:
    """All that is new is said in words; of a maker without a name it is said that it has none."""
    unnamed = "a maker that its file does not name"
    asked = {"model": "qwen3-30b-a3b", "gpu": nobodys}
    stack = predict_inference(build_scenario(InferenceInputs(system="vllm", **asked))).interval
    assert stack is not None
    assert stack.novel[0] == f"GPUs of {unnamed}"
    divided = InferenceInputs(system="ktransformers", host="epyc-9654", **asked)
    beside = predict_inference(build_scenario(divided)).interval
    assert beside is not None
    assert f"none with GPUs of {unnamed}:" in beside.method
    tuned = TrainingInputs(model="llama-3.1-8b", gpu=nobodys, framework="hf_trainer", lora_rank=16)
    tuning = predict_training(build_training_scenario(tuned)).interval
    assert tuning is not None
    assert f"none on devices of {unnamed}:" in tuning.method
