"""The published measurements: nothing lost in reading, and never a misleading neighbour."""

import csv
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.evidence import hybrid_rows, serving_rows
from calibrate.evidence.published import (
    GPU_ALIASES,
    MAX_DISTANCE,
    SYSTEM_ALIASES,
    Asked,
    distance,
    load_measurements,
    nearest_measurement,
    parse_inference,
    parse_training,
)
from llm_perf.config.loading import known_names, resolve_name
from llm_perf.errors import LLMPerfError, SpecError

ROOT = Path(__file__).parents[2]
FOLDER = resources.files("calibrate") / "measurements"
INFERENCE = (FOLDER / "published_inference.csv").read_text("utf-8")
TRAINING = (FOLDER / "published_training.csv").read_text("utf-8")
ROWS = {measurement.row_id: measurement for measurement in load_measurements()}
USABLE = [m for m in ROWS.values() if m.status == "ok" and not m.suspect and m.batch_size]

measurements = st.sampled_from(USABLE)
sizes = st.integers(1, 4096)
tiers = st.sampled_from(["gpu", "cpu", "nvme", None])


def machine(measurement):
    return {
        "gpu": GPU_ALIASES.get(measurement.gpu, measurement.gpu),
        "system": measurement.system,
        "num_gpus": measurement.num_gpus,
    }


def ask(measurement, **changed):
    inputs = {
        "model": measurement.model,
        "batch_size": measurement.batch_size or 1,
        "prompt_len": max(1, measurement.prompt_len),
        "gen_len": max(1, measurement.gen_len),
        "weight_bits": measurement.weight_bits,
        "kv_bits": measurement.kv_bits or 16,
        "weight_tier": measurement.weight_tier,
    }
    return inputs | changed


def nearest_to(measurement, **changed):
    return nearest_measurement(**machine(measurement), **ask(measurement, **changed))


# -- the nearest row, where it is known --------------------------------------------------------------------


def nearest(model, system="zero_inference", gpu="T4-16GB", **workload):
    return nearest_measurement(model, gpu, system, **{"prompt_len": 512, "gen_len": 32, **workload})


def test_opt_175b_on_a_t4_is_the_latency_of_the_figure_not_the_one_digit_of_the_table():
    for tier in (None, "nvme"):
        measured, differs = nearest("facebook/opt-175b", batch_size=1, weight_tier=tier)
        assert measured.row_id == 1504
        assert measured.total_latency_s == 5008
        assert measured.weight_tier == "nvme"  # 350 GB of weights on a host of 208 GB
        assert differs == {}


@pytest.mark.parametrize(("batch", "row_id", "seconds"), [(1, 1507, 202), (2, 1508, 204), (4, 1509, 205)])
def test_opt_30b_on_a_t4(batch, row_id, seconds):
    measured, differs = nearest("facebook/opt-30b", batch_size=batch, weight_tier="cpu")
    assert (measured.row_id, measured.total_latency_s, differs) == (row_id, seconds, {})


def test_opt_6_7b_on_a_t4_states_a_throughput_and_its_latency_follows():
    measured, differs = nearest("facebook/opt-6.7b", batch_size=16)
    assert (measured.row_id, measured.throughput_tokens_per_s, differs) == (4, 9.28, {})
    assert measured.total_latency_s == pytest.approx(16 * 32 / 9.28)
    assert measured.derived == {"total_latency_s"}


def test_the_13b_model_of_llm_analysis_states_prefill_and_time_per_token():
    measured, differs = nearest(
        "llm-analysis/test-13b", "fastertransformer", "A100-SXM-40GB", batch_size=1, gen_len=10
    )
    assert (measured.row_id, differs) == (623, {})
    assert measured.quantities()["prefill_latency_s"] == 0.06317
    assert measured.quantities()["latency_per_token_s"] == 0.022


def test_what_differs_is_said():
    measured, differs = nearest("facebook/opt-30b", batch_size=8, prompt_len=256)
    assert measured.row_id == 1509
    assert differs == {"batch_size": (8, 4), "prompt_len": (256, 512)}
    measured, differs = nearest(
        "meta-llama/Llama-2-7b-hf", "gpt_fast", "A100-SXM-80GB", batch_size=1, prompt_len=5, gen_len=200
    )
    assert differs == {"gpu": ("A100-SXM-80GB", "A100-80GB (330W limit)")}


def test_another_model_of_nearly_the_same_size_is_a_neighbour_only_where_the_same_model_is_far():
    workload = {"batch_size": 1, "prompt_len": 512, "gen_len": 32, "weight_tier": "nvme"}
    measured, differs = nearest("bigscience/bloom", **workload)
    assert (measured.model, differs) == (
        "facebook/opt-175b",
        {"model": ("bigscience/bloom", "facebook/opt-175b")},
    )
    measured, differs = nearest("a-new/model", model_params=180e9, **workload)
    assert measured.row_id == 1504
    assert nearest("a-new/model", **workload) is None  # of unknown size
    assert nearest("a-new/model", model_params=60e9, **workload) is None
    near = nearest("facebook/opt-175b", batch_size=4, weight_tier="nvme")
    assert near[1] == {"batch_size": (4, 1)}


def test_names_in_any_spelling():
    row = nearest("facebook/opt-175b", batch_size=1)[0]
    for gpu, system in (("t4-16gb", "zero-inference"), ("T4 16GB", "deepspeed-zero-inference")):
        assert nearest("Facebook_OPT-175b", system, gpu, batch_size=1)[0] == row


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"gpu": "H200-SXM-141GB"}, "nobody measured on that GPU"),
        ({"gpu": "V100-SXM2-32GB"}, "prompts of 4 tokens and batches of 64 and more"),
        ({"system": "vllm"}, "another system"),
        ({"system": "resident"}, "the general system is no stack that anybody measured"),
        ({"num_gpus": 2}, "nobody measured with two"),
        ({"batch_size": 4096}, "another world"),
        ({"gen_len": 200000}, "another world"),
    ],
)
def test_no_neighbour_where_none_is_near(changed, why):
    asked = {"gpu": "T4-16GB", "system": "zero_inference", "batch_size": 1, "prompt_len": 512, "gen_len": 32}
    assert nearest_measurement("facebook/opt-175b", **(asked | changed)) is None, why


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch_size", 0), ("prompt_len", -1), ("gen_len", 1.5), ("weight_tier", "disk"), ("model_params", 0)],
)
def test_a_bad_question_is_refused_with_the_name_of_the_field(field, value):
    with pytest.raises(SpecError, match=f"^{field} = "):
        nearest("facebook/opt-175b", **({"batch_size": 1} | {field: value}))


# -- laws ---------------------------------------------------------------------------------------------------


@given(measurements)
def test_a_measurement_is_at_distance_zero_from_its_own_inputs(measurement):
    if measurement.prompt_len and measurement.gen_len:
        assert distance(Asked(**ask(measurement)), measurement) == 0
        assert nearest_to(measurement)[1].keys() <= {"gpu"}


@given(measurements, sizes, sizes, sizes, st.sampled_from([4, 8, 16]), tiers)
def test_no_candidate_is_nearer_than_the_nearest(measurement, batch, prompt, gen, bits, tier):
    workload = {"batch_size": batch, "prompt_len": prompt, "gen_len": gen}
    asked = ask(measurement, **workload, weight_bits=bits, weight_tier=tier)
    found = nearest_to(measurement, **asked)
    candidates = [m for m in USABLE if machine(m) == machine(measurement)]
    least = min(distance(Asked(**asked), m) for m in candidates)
    if found is None:
        assert least > MAX_DISTANCE
    else:
        assert distance(Asked(**asked), found[0]) == least <= MAX_DISTANCE


@given(measurements, sizes, sizes, sizes)
def test_a_neighbour_is_of_the_same_machine_and_system_and_sound(measurement, batch, prompt, gen):
    found = nearest_to(measurement, batch_size=batch, prompt_len=prompt, gen_len=gen)
    if found:
        assert machine(found[0]) == machine(measurement)
        assert found[0].status == "ok"
        assert found[0].suspect is None
        assert found[0].quantities()
        assert all(asked != measured for asked, measured in found[1].values())


@given(measurements, st.sampled_from(["batch_size", "prompt_len", "gen_len"]), st.integers(2, 50))
def test_the_farther_a_size_the_greater_the_distance(measurement, field, factor):
    inputs = ask(measurement)
    asked = [Asked(**inputs | {field: inputs[field] * times}) for times in (1, factor, factor + 1)]
    distances = [distance(question, measurement) for question in asked]
    assert distances == sorted(distances)


def test_a_suspect_or_failed_row_is_never_returned_even_for_its_own_inputs():
    for measurement in ROWS.values():
        if measurement.suspect or measurement.status != "ok":
            found = nearest_to(measurement)
            assert found is None or found[0].row_id != measurement.row_id


# -- the tables ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "rows"), [("inference", 912), ("training", 288)])
def test_no_row_is_lost_or_doubled(kind, rows):
    loaded = load_measurements(kind)
    table = list(csv.DictReader((FOLDER / f"published_{kind}.csv").read_text("utf-8").splitlines()))
    assert len(loaded) == len({measurement.row_id for measurement in loaded}) == len(table) == rows
    assert [measurement.row_id for measurement in loaded] == [int(row["row_id"]) for row in table]
    assert loaded is load_measurements(kind)


def test_every_row_of_every_system_is_there():
    assert Counter(measurement.system for measurement in ROWS.values()) == {
        "llama_cpp": 352, "fastertransformer": 224, "flexgen": 86, "vllm": 76, "zero_inference": 64,
        "tensorrt_llm": 40, "accelerate": 25, "gpt_fast": 13, "exllama": 10, "ipex": 8, "lia": 8, "petals": 6,
    }  # fmt: skip
    assert Counter(measurement.status for measurement in ROWS.values()) == {
        "ok": 857, "doubtful": 21, "doubtful-e2e": 16, "OOM": 15, "OOM-host": 3,
    }  # fmt: skip


def test_suspect_rows_are_marked_with_a_reason():
    assert {m.row_id for m in ROWS.values() if m.suspect} == {
        19, 59, 90, 91, 92, 595, 1503, *range(1521, 1531), 1899,
    }  # fmt: skip
    assert {m.row_id for m in load_measurements("training") if m.suspect} == {237, 238, 410, 437, 447}


def test_every_row_names_its_source_and_a_commit_unless_it_is_a_paper_or_notes():
    for measurement in (*load_measurements(), *load_measurements("training")):
        source = measurement.source
        assert source.commit or source.repo in ("paper", "seed 004 (FlexGen reproduction notes)")
        assert source.repo in str(source)
        assert source.table in str(source)


def test_aliases_are_of_names_that_the_tables_have_and_lead_to_specs():
    systems = {
        row["system"]
        for row in (
            *csv.DictReader(INFERENCE.splitlines()),
            *serving_rows.load_rows(),
            *hybrid_rows.load_rows(),
        )
    }
    gpus = {m.gpu for m in (*load_measurements(), *load_measurements("training"))}
    assert set(SYSTEM_ALIASES) <= systems
    assert set(GPU_ALIASES) <= gpus
    for gpu in GPU_ALIASES.values():
        assert resolve_name("GPU", gpu) in known_names("GPU")
    for model in {measurement.model for measurement in ROWS.values()}:
        assert resolve_name("model", model) in known_names("model")


# -- units and definitions ----------------------------------------------------------------------------------


def test_gigabytes_of_flexgen_torch_and_fastertransformer_are_binary():
    assert ROWS[62].peak_gpu_memory_bytes == 7.038 * 2**30
    assert ROWS[661].peak_gpu_memory_bytes == 5.072 * 2**30
    assert ROWS[581].peak_gpu_memory_bytes == 15.55 * 2**30


def test_batch_and_throughput_are_of_the_whole_deployment():
    assert ROWS[189].batch_size == 2 * 256  # the blog states both per GPU
    assert ROWS[189].throughput_tokens_per_s == 2 * 77
    assert ROWS[39].batch_size == 64 * 3 * 4  # FlexGen: one of four micro-batches in the table
    assert ROWS[44].batch_size == 48  # ZeRO's scripts state the total
    assert ROWS[16].batch_size is None  # Petals: how many requests were in flight is not known
    assert ROWS[16].throughput_tokens_per_s == pytest.approx(24 * 0.08)


def test_a_throughput_of_one_phase_gives_the_time_of_that_phase_and_no_total():
    blog, decode, prefill, exllama = ROWS[174], ROWS[693], ROWS[697], ROWS[661]
    assert blog.quantities() == {"latency_per_token_s": pytest.approx(256 / 43)}
    assert decode.quantities() == {"latency_per_token_s": pytest.approx(1 / 72.79)}
    assert prefill.quantities() == {"prefill_latency_s": pytest.approx(512 / 2402.51)}
    assert exllama.latency_per_token_s == pytest.approx(1 / 140)  # at full context; 173 is at an empty one
    assert exllama.total_latency_s is None
    assert not any(row.latency_was_measured for row in (blog, decode, prefill, exllama))


def test_where_the_end_to_end_time_is_doubtful_only_the_phases_are_comparable():
    for measurement in ROWS.values():
        if measurement.status == "doubtful-e2e":
            assert measurement.quantities().keys() == {"prefill_latency_s", "latency_per_token_s"}


def test_rows_out_of_memory_have_no_quantities():
    assert not any(m.quantities() for m in ROWS.values() if m.status.startswith("OOM"))


def test_every_usable_row_has_something_to_compare_with():
    assert all(measurement.quantities() for measurement in USABLE)


def test_total_times_throughput_is_the_number_of_tokens():
    for measurement in USABLE:
        if measurement.throughput_kind == "output_per_total" and measurement.total_latency_s:
            derived = "total_latency_s" in measurement.derived
            tokens = measurement.throughput_tokens_per_s * measurement.total_latency_s
            expected = measurement.batch_size * measurement.gen_len
            # 2 % where both are stated: sources round them separately
            assert tokens == pytest.approx(expected, rel=1e-3 if derived else 0.02), measurement.row_id


def test_a_rate_of_one_phase_is_kept():
    for measurement in USABLE:
        if measurement.throughput_kind == "output_per_decode" and measurement.system != "exllama":
            rate = measurement.batch_size / measurement.latency_per_token_s
        elif measurement.throughput_kind == "prompt_per_prefill":
            rate = measurement.batch_size * measurement.prompt_len / measurement.prefill_latency_s
        else:
            continue
        assert rate == pytest.approx(measurement.throughput_tokens_per_s), measurement.row_id


def test_prefill_and_decode_make_the_total():
    with_phases = [measurement for measurement in USABLE if measurement.decode_latency_s]
    assert with_phases
    for measurement in with_phases:
        phases = measurement.prefill_latency_s + measurement.decode_latency_s
        assert phases == pytest.approx(measurement.total_latency_s, rel=1e-3), measurement.row_id


def test_derived_fields_exist_and_a_stated_number_is_not_among_them():
    table = {int(row["row_id"]): row for row in csv.DictReader(INFERENCE.splitlines())}
    for measurement in ROWS.values():
        for name in measurement.derived:
            assert getattr(measurement, name) is not None
        if table[measurement.row_id]["prefill_latency_s"]:
            assert "prefill_latency_s" not in measurement.derived


def test_placement_of_rows():
    assert (ROWS[8].weight_tier, ROWS[8].kv_tier) == ("cpu", "cpu")  # wg 20, wc 80; cc 100
    assert (ROWS[9].weight_tier, ROWS[9].kv_tier) == ("nvme", "nvme")  # wc 50, the cache on disk
    assert (ROWS[149].weight_tier, ROWS[149].kv_tier) == ("cpu", "gpu")
    assert (ROWS[156].weight_tier, ROWS[156].kv_tier) == ("nvme", "cpu")
    assert ROWS[1498].weight_tier == "cpu"  # "disk or cpu": 87 GB at 4 bits fit in 208 GB
    assert ROWS[41].weight_tier is None


def test_training_units():
    rows = {measurement.row_id: measurement for measurement in load_measurements("training")}
    megatron, mpt = rows[481], rows[78]
    assert megatron.iteration_time_s == 1.42
    assert megatron.derived == frozenset()
    assert mpt.derived == {"iteration_time_s"}
    assert mpt.mfu == pytest.approx(0.5333)
    assert mpt.model_flops_per_s_per_gpu == 166e12
    assert rows[219].vp is None  # n/a
    for row in rows.values():
        if row.iteration_time_s:
            tokens = row.global_batch_size * row.seq_len / row.iteration_time_s
            assert tokens == pytest.approx(row.throughput_tokens_per_s, rel=0.02)


# -- malformed tables ---------------------------------------------------------------------------------------


def with_cell(text, column, value):
    """The table's first row alone, with one cell changed."""
    header, cells = list(csv.reader(text.splitlines()[:2]))
    cells[header.index(column)] = value
    return ",".join(header) + "\n" + ",".join(f'"{cell}"' for cell in cells) + "\n"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("batch_size", "two"),
        ("gpu_count", "-1"),
        ("prompt_len_tok", "512.5"),
        ("gen_len_tok", ""),
        ("throughput_tok_s", "fast"),
        ("throughput_tok_s", "nan"),
        ("throughput_tok_s", "0"),
        ("total_latency_s", "inf"),
        ("weight_dtype", "int3"),
        ("weight_offload", "tape"),
        ("kv_offload", "2"),
        ("throughput_kind", "per_fortnight"),
        ("throughput_scope", "galaxy"),
        ("status", "okay"),
        ("trust", "surely"),
        ("source_repo", ""),
        ("model_params", ""),
    ],
)
def test_a_malformed_cell_is_one_line_with_file_line_and_column(column, value):
    with pytest.raises(LLMPerfError) as caught:
        parse_inference(with_cell(INFERENCE, column, value), "table.csv")
    assert str(caught.value).startswith(f"table.csv:2: {column} = {value!r}: expected ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("parse", [parse_inference, parse_training])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "table.csv:1: column 'row_id' is missing"),
        ("\n1\n", "table.csv:1: column 'row_id' is missing"),
        ("row_id,trust\n1,A: log\n", "table.csv:1: column '"),
        ("row_id,trust\n1\n", "table.csv:2: 1 cells under 2 columns"),
        ('row_id\n"1"2\n', "table.csv:2: malformed CSV: "),
        ('row_id\n"1', "table.csv:2: malformed CSV: "),
    ],
)
def test_a_malformed_table_is_one_line_with_file_and_line(parse, text, message):
    with pytest.raises(LLMPerfError) as caught:
        parse(text, "table.csv")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("parse", "text"), [(parse_inference, INFERENCE), (parse_training, TRAINING)])
def test_a_row_id_stands_once(parse, text):
    lines = text.splitlines()
    with pytest.raises(LLMPerfError, match=r"^table\.csv:4: row_id = "):
        parse("\n".join([lines[0], lines[1], lines[2], lines[1]]), "table.csv")


@given(st.text(max_size=200))
def test_arbitrary_text_is_refused_or_read_and_never_a_traceback(text):
    for table in (text, "row_id," + text, INFERENCE.splitlines()[0] + "\n" + text):
        with suppress(SpecError):
            parse_inference(table, "table.csv")


def test_there_are_two_kinds():
    with pytest.raises(SpecError, match=r"^kind = 'serving': expected 'inference' or 'training'$"):
        load_measurements("serving")


def test_reading_needs_the_standard_library_alone():
    code = (
        "import sys, calibrate.evidence.published as p; p.load_measurements(); "
        "print(sorted({'numpy', 'pydantic', 'torch', 'deepspeed', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"
