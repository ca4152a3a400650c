"""Parts of a run of llama.cpp that need none: GGUF files, llama-bench's JSON, the build, watched programs."""

from __future__ import annotations

import io
import json
import re
import stat
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from calibrate.run.llama_cpp import build
from calibrate.run.llama_cpp.bench import parse_bench
from calibrate.run.llama_cpp.child import run_program, started
from calibrate.run.llama_cpp.gguf_file import architecture_of, write_random_gguf
from calibrate.run.llama_cpp.models import SAMPLES, sample
from llm_perf.config.gguf import load_gguf
from llm_perf.config.huggingface import from_hf_config
from llm_perf.config.loading import get_model_config_by_name
from llm_perf.config.tensor_files import read_gguf
from llm_perf.counts.parameters import total_params
from llm_perf.errors import DoesNotFitError, EnvironmentFailure, SpecError

HERE = Path(__file__).resolve().parent
BENCH = (HERE.parent / "data" / "llama_bench.json").read_text("utf-8")

COMMON = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 160, "max_position_embeddings": 128,
}  # fmt: skip
EXPERTS = {"num_experts": 6, "num_local_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SHAPES = {
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
    "mixtral": {"model_type": "mixtral", "tie_word_embeddings": False, "sliding_window": None, **EXPERTS},
    "qwen3_moe": {"model_type": "qwen3_moe", "head_dim": 32, "tie_word_embeddings": False, **EXPERTS},
}
ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "mixtral": "llama",
    "qwen3_moe": "qwen3moe",
}


def model_of(name: str):
    return from_hf_config(COMMON | SHAPES[name], f"tiny-{name}")


# -- GGUF files of random weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_a_written_file_is_read_back_as_the_same_model(name, tmp_path):
    model, file = model_of(name), tmp_path / "model.gguf"
    assert architecture_of(model) == ARCHITECTURES[name]
    write_random_gguf(model, file, seed=3)
    read = load_gguf(file)
    assert read.layer_groups == model.layer_groups
    assert total_params(read) == total_params(model)
    assert (read.name, read.tied_embeddings) == (model.name, model.tied_embeddings)
    assert {stored.name for row in read.stored_formats.layers for stored in row} <= {"f16", "f32"}


@pytest.mark.parametrize("name", SHAPES)
def test_a_written_file_has_two_bytes_per_weight_and_four_where_llama_cpp_keeps_32_bits(name, tmp_path):
    model, file = model_of(name), tmp_path / "model.gguf"
    write_random_gguf(model, file)
    tensors = read_gguf(file).tensors
    assert sum(tensor.elements for tensor in tensors) == total_params(model)
    for tensor in tensors:
        wide = len(tensor.shape) == 1 or "ffn_gate_inp" in tensor.name
        assert tensor.size_bytes == tensor.elements * (4 if wide else 2), tensor.name
    header_and_padding = file.stat().st_size - sum(tensor.size_bytes for tensor in tensors)
    assert 0 < header_and_padding < 32 * (len(tensors) + 1) + 64 * 1024


def test_weights_follow_the_seed(tmp_path):
    files = [tmp_path / f"{number}.gguf" for number in range(3)]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        write_random_gguf(model_of("llama"), file, seed)
    one, same, other = (file.read_bytes() for file in files)
    assert one == same != other


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_larger_than_caches_and_can_be_quantised(name):
    model = sample(name)
    architecture_of(model)
    assert 2e8 < total_params(model) < 4e8
    inner = [
        linear.in_features for group in model.layer_groups for linear in group.mlp.linears(model.hidden_size)
    ]
    assert all(width % 256 == 0 for width in (*inner, model.hidden_size)), (
        "K-types have blocks of 256 weights"
    )


@pytest.mark.parametrize("name", ["opt-125m", "gemma-2-2b", "deepseek-v2-lite", "gpt-oss-20b", "bloom-560m"])
def test_a_model_of_other_layers_is_refused(name):
    with pytest.raises(SpecError, match=r"Llama, Mixtral, Qwen2, Qwen3 and Qwen3-MoE; give a \.gguf file"):
        architecture_of(get_model_config_by_name(name))


@pytest.mark.parametrize(
    "name", ["tinyllama-1.1b", "qwen2.5-0.5b", "qwen3-0.6b", "mixtral-8x7b", "qwen3-30b-a3b"]
)
def test_bundled_models_of_these_layers_can_be_written(name):
    assert architecture_of(get_model_config_by_name(name)) in set(ARCHITECTURES.values())


# -- llama-bench ----------------------------------------------------------------------------------------------------


def test_the_json_of_a_real_llama_bench_is_read():
    prompt, generated = parse_bench(BENCH)
    assert (prompt.n_prompt, prompt.n_gen, prompt.n_depth) == (64, 0, 32)
    assert (generated.n_prompt, generated.n_gen, generated.n_depth) == (0, 8, 32)
    for test in (prompt, generated):
        tokens = test.n_prompt + test.n_gen
        assert len(test.samples_s) == 3
        # Its own figure of the same test: the mean of tokens per second.
        assert test.fields["avg_ts"] == pytest.approx(sum(tokens / s for s in test.samples_s) / 3, rel=1e-6)
        assert test.fields["n_threads"] == 1


def _changed(**changes):
    first = json.loads(BENCH)[0] | changes
    return json.dumps([{name: value for name, value in first.items() if value is not ...}])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no JSON, or is cut off"),
        (BENCH[:200], "no JSON, or is cut off"),
        ("| model | size |", "no JSON"),
        ("{}", "expected a list of tests, found dict"),
        ("[3]", "test 0: expected an object, found int"),
        (_changed(n_prompt=...), "test 0: n_prompt = None: expected a whole number"),
        (_changed(n_gen=-1), "test 0: n_gen = -1"),
        (_changed(n_prompt=0, n_gen=0), "both 0"),
        (_changed(samples_ns=[]), "samples_ns is missing or empty"),
        (_changed(samples_ns=[0]), "samples_ns has 0"),
        (_changed(samples_ns=[True]), "samples_ns has True"),
    ],
)  # fmt: skip
def test_other_output_is_refused_in_one_line(text, said):
    with pytest.raises(SpecError, match=re.escape(said)) as refused:
        parse_bench(text)
    assert "\n" not in str(refused.value)


# -- the build ------------------------------------------------------------------------------------------------------


def test_the_version_is_that_of_the_constraints():
    pinned = (HERE.parents[1] / "constraints.txt").read_text("utf-8")
    assert f"\nllama-cpp-python=={build.VERSION}\n" in pinned


def test_programs_of_ones_own_are_taken_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv(build.DIRECTORY_VARIABLE, str(tmp_path))
    assert build.built() is None
    with pytest.raises(EnvironmentFailure, match="has no llama-bench and llama-quantize"):
        build.required()
    for name in build.PROGRAMS:
        (tmp_path / name).write_text("#!/bin/sh\n")
    assert build.built() is None, "they have to be executable"
    for name in build.PROGRAMS:
        (tmp_path / name).chmod(0o755)
    assert build.required().bench == tmp_path / "llama-bench"


def test_without_a_build_one_line_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.delenv(build.DIRECTORY_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(EnvironmentFailure, match="make llama-cpp"):
        build.required()


def _archive(path: Path, names: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as package:
        for name, text in names.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            package.addfile(entry, io.BytesIO(text.encode()))
    return path


def test_only_llama_cpp_is_unpacked_and_nothing_beside_it(tmp_path):
    archive = _archive(
        tmp_path / "package.tar.gz",
        {
            "p-1/vendor/llama.cpp/CMakeLists.txt": "".join(
                f"set(LLAMA_VERSION_{part} {n})\n" for part, n in (("MAJOR", 0), ("MINOR", 5), ("PATCH", 7))
            ),
            "p-1/vendor/llama.cpp/src/a.cpp": "a",
            "p-1/vendor/llama.cpp/../../../../escaped": "no",
            "p-1/setup.py": "no",
        },
    )  # fmt: skip
    source = build.unpacked(archive, tmp_path / "here" / "there")
    files = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())
    assert files == ["CMakeLists.txt", "src/a.cpp"]
    assert not list(tmp_path.rglob("escaped"))
    assert build._llama_version(source) == "0.5.7"


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_package_that_is_none_fails_in_one_line(content, tmp_path):
    archive = tmp_path / "package.tar.gz"
    archive.write_bytes(content)
    with pytest.raises(EnvironmentFailure, match=r"package\.tar\.gz: cannot be unpacked"):
        build.unpacked(archive, tmp_path / "folder")


def test_a_package_without_llama_cpp_says_so(tmp_path):
    archive = _archive(tmp_path / "package.tar.gz", {"p-1/setup.py": "no"})
    with pytest.raises(EnvironmentFailure, match=r"holds no vendor/llama\.cpp"):
        build.unpacked(archive, tmp_path / "folder")


def test_small_files_are_compiled_together_and_nothing_that_computes(tmp_path):
    lists = tmp_path / "common" / "CMakeLists.txt"
    lists.parent.mkdir()
    lists.write_text("add_library(llama-common a.cpp)\n")
    build._compile_together(tmp_path)  # without tools/mtmd: another layout is left as it is
    assert "set_target_properties(llama-common PROPERTIES UNITY_BUILD ON" in lists.read_text()
    assert {target for target, _ in build._TOGETHER.values()} == {"mtmd", "llama-common"}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["CMakeLists.txt"]


def test_programs_for_a_processor_with_matrix_tiles_do_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """ggml's kernels for AMX end prompts of quantised weights with a segmentation fault where GCC 12 compiled them."""
    plain, tiles = "x86_64 flags : avx2 fma", "x86_64 flags : avx2 fma amx_bf16 amx_int8 amx_tile"
    monkeypatch.setattr(build, "_cpu_facts", lambda: plain)
    options, folder = build._options(), build.build_dir()
    assert not [option for option in options if "amx" in option]
    monkeypatch.setattr(build, "_cpu_facts", lambda: tiles)
    assert [option for option in build._options() if option not in options] == [
        f"-DCMAKE_{language}_FLAGS=-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" for language in ("C", "CXX")
    ]
    assert build.build_dir() != folder


def test_who_waits_for_another_build_does_not_build_again(tmp_path, monkeypatch):
    """The second finds the programs that the first made while it waited."""
    monkeypatch.setattr(build, "build_dir", lambda: tmp_path / "programs")
    made = []

    def first(target, say):
        made.append(target)
        time.sleep(0.2)
        target.mkdir()
        for name in build.PROGRAMS:
            (target / name).write_text("")
            (target / name).chmod(0o700)
        return build.built()

    monkeypatch.setattr(build, "_build", first)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(build.build, [print, print]))
    assert len(made) == 1
    assert [one.folder for one in found] == [tmp_path / "programs"] * 2


# -- programs that are watched ----------------------------------------------------------------------------------------


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_output_memory_and_time_of_a_program_are_known():
    done = run_program(_python("import time; x = bytearray(100 << 20); time.sleep(.4); print('out')"))
    assert done.stdout == "out\n"
    assert done.peak_rss_bytes is None or 100 << 20 < done.peak_rss_bytes < 200 << 20
    assert done.usage["wall_s"] > 0.4


def test_work_of_the_program_is_its_own_and_not_others():
    code = "import time\nend = time.process_time() + .5\nwhile time.process_time() < end: pass"
    assert run_program(_python(code)).usage["own_cpu_s"] > 0.5


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("import sys; sys.stderr.write('noise\\nllama: error: no such tensor\\nbye\\n'); sys.exit(1)",
         EnvironmentFailure, "failed: llama: error: no such tensor"),
        ("import sys; sys.exit(3)", EnvironmentFailure, "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", DoesNotFitError, "was killed while it ran"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", EnvironmentFailure, "built for another processor"),
    ],
)  # fmt: skip
def test_a_program_that_fails_is_one_line(code, error, said):
    with pytest.raises(error, match=said) as failed:
        run_program(_python(code))
    assert "\n" not in str(failed.value)


def test_a_program_that_cannot_be_started_is_one_line(tmp_path):
    plain = tmp_path / "llama-bench"
    plain.write_text("text")
    plain.chmod(stat.S_IRUSR)
    with pytest.raises(EnvironmentFailure, match="cannot be started"):
        run_program([str(plain)])


def test_a_program_ends_when_its_block_does():
    begun = time.perf_counter()
    with pytest.raises(KeyboardInterrupt), started(_python("import time; time.sleep(60)")) as process:
        raise KeyboardInterrupt
    assert process.returncode is not None
    assert time.perf_counter() - begun < 10


# -- the probe's fit --------------------------------------------------------------------------------------------------

TRUTH = {
    "cpu_core_gb_per_s": 17.0, "cpu_flops_per_cycle_avx512": 20.0, "cpu_unpack_k": 0.5, "cpu_expert_share": 0.9,
    "cpu_barrier_us": 20.0, "cpu_wide_kernels": 3.0, "cpu_decode_score_share": 0.2, "cpu_wide_lost_rows": 6.0,
    "cpu_wide_k": 1.4, "cpu_score_share": 0.3, "cpu_one_row_flops_per_cycle": 0.0, "cpu_cached_row_flops_per_cycle": 0.0,
}  # fmt: skip
TRUE_READ_GB_PER_S = 29.0


@pytest.fixture
def this_host(monkeypatch):
    """A machine of two cores with AVX-512, whatever the tests run on."""
    from llm_perf.config import here

    facts = {
        "cpu": "AMD EPYC", "sockets": 1, "cores_per_socket": 2, "memory_gib": 24.0, "usable_memory_gib": 20.0,
        "instruction_sets": ("avx2", "avx512", "avx512_vnni", "avx512_bf16"),
    }  # fmt: skip
    monkeypatch.setattr(here, "processor_here", lambda: (facts, None))


def _truth(scenario):
    from llm_perf.config.profiles import Profile

    return Profile(
        name="truth", system_constants={"llama_cpp": TRUTH}, host={"read_gb_per_s": TRUE_READ_GB_PER_S}
    ).apply(scenario)


def _probe_rows():
    """The rows of a probe on a machine whose constants are known."""
    from calibrate.fit import llama_cpp as fit
    from calibrate.run.llama_cpp import probe

    rows = []
    for name, weights, depths in probe._PLAN:
        model = from_hf_config(probe._COMMON | probe._SHAPES[name], name)
        for threads in (1, 2):
            for depth in depths:
                for phase, prompt, gen, known in (
                    ("prefill", depth + probe._PROMPTS[name], 1, depth / (depth + probe._PROMPTS[name])),
                    ("decode", max(depth, 1), probe.GENERATED + 1, 0.0),
                ):
                    scenario = fit.scenario_of(
                        model, prompt, gen, threads, weight_format=weights, prefix_hit_rate=known
                    )
                    row = fit.Row(scenario, phase, 1.0)
                    rows.append(fit.Row(scenario, phase, row.predicted_s(_truth(scenario))))
    return rows


def test_a_probe_of_a_known_machine_predicts_models_that_it_did_not_run(this_host, tmp_path):
    from calibrate.fit import llama_cpp as fit
    from calibrate.fit.profile_file import write_profile
    from llm_perf.analysis.measures import latencies

    found = fit.fit_rows(_probe_rows())
    # Prompts of experts multiply row by row, at rates that tokens, bound by reads, tell to 3 %.
    for row, ratio in zip(_probe_rows(), found.log_ratios, strict=True):
        assert abs(ratio) < (0.01 if row.phase == "decode" else 0.02), row.scenario.model.name
    written = write_profile(found.profile, str(tmp_path / "here.yaml"))
    for name in SAMPLES:
        for weights in ("fp16", "q8_0", "q4_k_m"):
            for threads in (1, 2):
                asked = (sample(name), 128, 24, threads)
                after = fit.scenario_of(*asked, weight_format=weights, profile=written)
                truth = _truth(fit.scenario_of(*asked, weight_format=weights))
                one, other = (latencies(scenario) for scenario in (after, truth))
                ratio = one.decode_latency_s / other.decode_latency_s
                assert ratio == pytest.approx(1, abs=0.01), (name, weights, threads)
                ratio = one.prefill_latency_s / other.prefill_latency_s
                assert ratio == pytest.approx(1, abs=0.03), (name, weights, threads)


def test_the_recorded_table_holds_its_own_figures_and_the_page_shows_them():
    from calibrate.validate.llama_cpp_table import summary

    root = HERE.parents[1]
    table = json.loads(
        (root / "calibrate" / "measurements" / "llama_cpp" / "table_epyc_2_cores.json").read_text("utf-8")
    )
    page = (root / "docs" / "calibrate_llama_cpp.md").read_text("utf-8")
    assert len(table["rows"]) == 18
    for row in table["rows"]:
        samples = sorted(row["samples_s"]["decode"])
        measured = samples[len(samples) // 4]  # as it was taken then
        assert row["measured_s"]["decode"] == pytest.approx(measured, rel=1e-4)
        error = row["predicted_s"]["after"]["decode"] / measured - 1
        assert row["error"]["after"]["decode"] == pytest.approx(error, abs=2e-4)
        assert f"{1e3 * measured:.2f} | {100 * row['error']['after']['decode']:+.1f} %" in page
    after = summary(table["rows"])["decode_after"]
    assert (after["within"], round(after["median_abs_error"], 3), round(after["max_abs_error"], 3)) == (
        16,
        0.021,
        0.134,
    )


def test_the_table_of_rounds_holds_its_own_figures_and_the_page_shows_them():
    from calibrate.run.llama_cpp.rounds import quiet_s, settled
    from calibrate.validate.llama_cpp_table import summary

    root = HERE.parents[1]
    folder = root / "calibrate" / "measurements" / "llama_cpp"
    table = json.loads((folder / "table_zen5_2_cores.json").read_text("utf-8"))
    page = (root / "docs" / "calibrate_llama_cpp.md").read_text("utf-8")
    assert len(table["rows"]) == 18
    for row in [*table["rows"], *table["probe"]["probe"]["runs"]]:
        for phase, rounds in row["samples_s"].items():
            assert row["quiet_s"][phase] == pytest.approx(quiet_s(rounds), rel=1e-4)
        assert row["settled"] == all(settled(rounds) for rounds in row["samples_s"].values())
    for row in table["rows"]:
        mark = "" if row["settled"] else " *"
        shown = [f"{1e3 * row['quiet_s']['decode']:.2f}{mark}"]
        for name in ("before", "after"):
            error = row["predicted_s"][name]["decode"] / row["quiet_s"]["decode"] - 1
            assert row["error"][name]["decode"] == pytest.approx(error, abs=2e-4)
            shown.append(f"{100 * row['error'][name]['decode']:+.1f} %")
        assert f"{row['weight_format']} | {row['threads']} | {' | '.join(shown)}" in page
    found = summary(table["rows"])
    before, after = found["decode_before"], found["decode_after"]
    assert (before["within"], round(before["median_abs_error"], 3)) == (18, 0.091)
    assert (after["within"], round(after["median_abs_error"], 3), found["unsettled"]) == (15, 0.043, 7)
    # Whoever is off by more than was aimed at had two threads and no second round as fast.
    missed = [row for row in table["rows"] if abs(row["error"]["after"]["decode"]) > 0.1]
    assert [(row["threads"], row["settled"]) for row in missed] == [(2, False)] * 3


def test_predictions_before_the_probe_are_those_of_todays_constants(monkeypatch):
    """Of a machine that says nothing of itself but what /proc/cpuinfo does: two processors of a Zen 5."""
    from calibrate.run.llama_cpp.prediction import predict_llama_cpp
    from llm_perf.config import here

    facts = {
        "cpu": "AMD EPYC", "sockets": 1, "cores_per_socket": 2, "memory_gib": 24.0, "usable_memory_gib": 20.0,
        "instruction_sets": ("avx2", "avx512", "avx512_vnni", "avx512_bf16", "avx_vnni"),
    }  # fmt: skip
    kind = here.ProcessorId("AuthenticAMD", 26, 2, virtual=True, last_level_caches=1)
    monkeypatch.setattr(here, "processor_here", lambda: (facts, kind))
    table = json.loads(
        (HERE.parents[1] / "calibrate" / "measurements" / "llama_cpp" / "table_zen5_2_cores.json").read_text(
            "utf-8"
        )
    )
    for row in table["rows"]:
        result = predict_llama_cpp(
            sample(row["model"]),
            row["prompt_len"],
            row["gen_len"],
            row["threads"],
            weight_format=row["weight_format"],
        )
        assert result.decode is not None
        said = row["predicted_s"]["before"]
        assert result.decode.latency_s / (row["gen_len"] - 1) == pytest.approx(said["decode"], rel=1e-3)
        assert result.prefill.latency_s == pytest.approx(said["prefill"], rel=1e-3)


# -- rounds -----------------------------------------------------------------------------------------------------------


def test_the_spread_is_that_of_rounds_and_not_of_samples():
    from calibrate.run.llama_cpp.rounds import spread

    # Of medians, as times are: one sample that nobody disturbed does not make a round quick.
    assert spread([(1.0, 5.0, 5.2), (4.0, 4.1, 9.0), (4.2, 4.3, 4.4)]) == pytest.approx(5.0 / 4.1 - 1)
    assert spread([(1.0, 5.0), ()]) is None
    assert spread([]) is None


@pytest.mark.parametrize("rounds", [[], [()], [(), ()]])
def test_rounds_without_a_sample_are_said_to_be_so(rounds):
    from calibrate.run.llama_cpp.rounds import Times, quiet_s, settled
    from llm_perf.errors import EnvironmentFailure

    with pytest.raises(EnvironmentFailure, match="no round"):
        quiet_s(rounds)
    assert not settled(rounds)
    plain = Times(prefill=[(1.0, 2.0, 3.0)], decode=rounds).as_dict()
    assert plain["quiet_s"] == {"prefill": 2.0, "decode": None}
    assert plain["spread"] == {"prefill": None, "decode": None}


def test_a_time_is_the_median_of_the_fastest_round_and_settled_once_that_was_met_again():
    from calibrate.run.llama_cpp.rounds import TimedFile, Times, quiet_s, settled, unsettled

    # Two threads on one core of a virtual machine, on two, and on one again.
    rounds = [(7.1, 7.1, 7.1), (4.3, 3.8, 3.5), (7.2, 7.2, 7.1)]
    assert quiet_s(rounds) == 3.8
    assert not settled(rounds)
    assert settled([*rounds, (4.1, 4.0, 30.0)])
    assert not settled([(1.0,)])
    calm, odd = (
        TimedFile(Path("x"), None, "fp16", 8, 8, 0, times={1: Times(decode=found)})
        for found in (rounds * 2, rounds)
    )
    assert unsettled([calm, odd]) == [odd]


@pytest.mark.parametrize("seconds", [1000.0, 0.0])
def test_rounds_go_on_for_files_whose_fastest_round_was_not_met_again(seconds, monkeypatch, tmp_path):
    import contextlib

    from calibrate.run.llama_cpp import probe, rounds

    times = {"calm": [4.0, 4.1], "odd": [7.0, 4.0, 7.1, 4.2]}
    files = [
        rounds.TimedFile(tmp_path / name, None, "fp16", 8, 8, 0, times={1: rounds.Times()}) for name in times
    ]
    ran = []

    def measure_round(programs, given, number, say):
        for file in given:
            ran.append(file.path.name)
            file.times[1].decode.append((times[file.path.name].pop(0),))

    monkeypatch.setattr(probe, "measure_round", measure_round)
    monkeypatch.setattr(probe, "probe_files", lambda *_: contextlib.nullcontext(files))
    monkeypatch.setattr(probe.Stream, "measure", lambda self: None)
    found = probe.run_probe(None, str(tmp_path), lambda _: None, seconds)
    assert ran == ["calm", "odd"] * 2 + (["odd"] * 2 if seconds else [])
    assert [run.times.settled for run in found.runs] == [True, bool(seconds)]


def test_files_of_probe_and_table_are_run_in_turn_and_every_round_over_all(monkeypatch, tmp_path):
    from types import SimpleNamespace

    from calibrate.run.llama_cpp import rounds
    from calibrate.run.llama_cpp.bench import BenchTest

    ran = []

    def run_tests(programs, path, *, prompt, gen, depth, threads, repetitions, warmup, mapped):
        ran.append((path.name, prompt, gen, depth, mapped))
        parts = [*([(prompt, 0)] if prompt else []), *([(0, gen)] if gen else [])]
        tests = [
            BenchTest(*part, depth, (1.0 + count,) * repetitions, {"n_threads": count})
            for count in threads
            for part in parts
        ]
        return tests, SimpleNamespace(usage={"others_cores": 0.25})

    monkeypatch.setattr(rounds, "run_tests", run_tests)
    monkeypatch.setattr(rounds, "thread_counts", lambda: [1, 2])
    probes = [rounds.TimedFile(tmp_path / f"p{i}", None, "fp16", 64, 12, 0) for i in range(2)]
    table = [rounds.TimedFile(tmp_path / f"t{i}", None, "fp16", 128, 23, 128) for i in range(3)]
    files = rounds.alternately(probes, table)
    for number in range(2):
        rounds.measure_round(None, files, number, lambda _: None)
    first = [("p0", 64, 12, 0), ("t0", 128, 0, 0), ("t0", 0, 23, 128), ("p1", 64, 12, 0), ("t1", 128, 0, 0),
             ("t1", 0, 23, 128), ("t2", 128, 0, 0), ("t2", 0, 23, 128)]  # fmt: skip
    assert ran == [(*run, True) for run in first] + [(*run, False) for run in first]
    one, two = (table[0].times[count] for count in (1, 2))
    assert one.decode == [(pytest.approx(2 / 23),) * rounds.REPETITIONS] * 2
    assert two.prefill == [(3.0,) * rounds.REPETITIONS] * 2
    assert one.as_dict()["samples_s"]["prefill"] == [[2.0] * rounds.REPETITIONS] * 2
    assert one.as_dict()["quiet_s"] == {"prefill": 2.0, "decode": pytest.approx(2 / 23)}
    assert one.as_dict()["spread"] == {"prefill": 0.0, "decode": 0.0}
    assert one.others_cores == 0.25
