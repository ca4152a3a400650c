"""What a run returns and writes, for all families and places of the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import calibrate
from llm_perf.report.benchmark_log import (
    cache_bytes,
    format_benchmark_log,
    get_filename,
    hidden_bytes,
    model_bytes,
    parse_benchmark_log,
)
from tests.run.conftest import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_3_generates_the_tokens_of_plain_transformers(run, models, family):
    model = models[family]
    plain = run(model_name=model, system="transformers")["raw"]["tokens"]
    assert len(plain) == 2
    assert all(len(row) == 5 for row in plain)
    assert run(model_name=model)["raw"]["tokens"] == plain
    assert run(model_name=model, cpu_offload=True)["raw"]["tokens"] == plain
    assert run(model_name=model, kv_offload=True, loops=2)["raw"]["tokens"] == plain


def test_the_offloaded_cache_counts_what_it_moves(run):
    one = run(kv_offload=True, pin_kv_cache=False, async_kv_offload=True)
    loop = one["raw"]["loops"][0]
    per_token = 2 * 4 * 256 * 4 * 2  # keys and values, layers, width, bytes of fp32, sequences
    assert loop["kv_to_host_bytes"] == (12 + 4) * per_token
    assert loop["kv_to_device_bytes"] == sum(12 + step for step in range(4)) * per_token
    assert one["measured"]["kv_cache_host_bytes"] >= (12 + 4) * per_token


def test_weights_on_nvme_leave_swap_files_while_they_are_used_and_none_afterwards(run, offload_dir):
    plain = run(system="transformers")["raw"]["tokens"]
    one = run(disk_offload=True)
    assert one["raw"]["tokens"] == plain
    # The token table alone is 50272 x 256 fp32; layers of 256 x 1024 are 1 MiB.
    assert one["measured"]["bytes_swapped_to_disk"] >= 50272 * 256 * 4
    assert not list(offload_dir.glob("swap-*"))


def test_a_model_too_small_for_nvme_says_that_nothing_went_there(run, models):
    one = run(model_name=models["llama"], disk_offload=True)
    assert one["measured"]["bytes_swapped_to_disk"] == 0
    assert any("no weight went to disk" in warning for warning in one["warnings"])


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights_are_stored_in_their_bits(run, models, bits):
    found = run(model_name=models["opt"], quant_bits=bits)["measured"]["quantisation"]
    h, ffn, vocab, layers, positions = 128, 512, 512, 3, 256 + 2
    # Linear layers, token table and learned positions, which OPT keeps in a class of its own: not quantised.
    weights = layers * (4 * h * h + 2 * h * ffn) + vocab * h
    groups = weights / 64
    assert found["quantised_tensors"] == layers * 6 + 1
    assert found["quantised_bytes"] == weights * bits / 8 + groups * 2 * 4
    assert found["largest_unquantised"][0]["bytes"] == positions * h * 4


def test_four_and_eight_bits_give_other_numbers_than_none(run, models):
    tokens = {
        bits: run(model_name=models["llama"], quant_bits=bits, gen_len=12)["raw"]["tokens"]
        for bits in (4, 8, 16)
    }
    assert tokens[4] != tokens[16]


def test_quantised_weights_work_on_nvme_too(run):
    assert run(disk_offload=True, quant_bits=8)["measured"]["bytes_swapped_to_disk"] > 0


@pytest.mark.parametrize("bits", [16, 4])
def test_dummy_weights_go_straight_into_place_without_a_checkpoint(run, models, tmp_path, bits):
    one = run(
        model_name=models["mixtral"], dummy_on_disk=False, quant_bits=bits, offload_dir=str(tmp_path / "none")
    )
    assert not list((tmp_path / "none").iterdir())
    tokens = {token for row in one["raw"]["tokens"] for token in row}
    assert all(0 <= token < 512 for token in tokens)
    again = run(
        model_name=models["mixtral"], dummy_on_disk=False, quant_bits=bits, offload_dir=str(tmp_path / "none")
    )
    assert again["raw"]["tokens"] == one["raw"]["tokens"]


def test_the_result_holds_seed_001s_definitions(run):
    one = run(loops=3, warmup=1, batch_size=4)
    measured, loops = one["measured"], one["raw"]["loops"]
    prefill, decode, total = (measured[phase] for phase in ("prefill", "decode", "total"))
    assert len(loops) == 3
    assert len(one["raw"]["warmup"]) == 1
    assert decode["latency_s"] == pytest.approx(total["latency_s"] - prefill["latency_s"])
    assert decode["latency_per_token_s"] == pytest.approx(decode["latency_s"] / 4)
    assert prefill["throughput_tokens_per_s"] == pytest.approx(4 * 12 / prefill["latency_s"])
    assert decode["throughput_tokens_per_s"] == pytest.approx(4 * 4 / decode["latency_s"])
    assert total["throughput_tokens_per_s"] == pytest.approx(4 * 5 / total["latency_s"])
    for loop in loops:
        assert len(loop["decode_steps_s"]) == 4
        assert loop["prefill_s"] + sum(loop["decode_steps_s"]) <= loop["total_s"]
    assert measured["host_rss_bytes"] >= measured["peak_gpu_memory_bytes"] > 100e6


def test_each_error_is_signed_and_a_share_of_the_measured_value(run):
    one = run()
    for phase in ("prefill", "decode", "total"):
        measured, predicted = (one[side][phase]["latency_s"] for side in ("measured", "predicted"))
        assert one["error"][f"{phase}_latency"] == pytest.approx((predicted - measured) / measured)
    # The process's memory is known to a few per cent before anything is loaded; times depend on who else computes.
    assert abs(one["error"]["peak_gpu_memory"]) < 0.3


def test_the_log_is_what_the_original_would_have_written(run):
    one = run(cpu_offload=True, kv_offload=True, quant_bits=8)
    name = get_filename("tiny-opt", 2, 12, 5, True, False, 1, 1, True, True) + ".log"
    assert one["log_file"] == name

    class Shape:
        hidden_size, num_hidden_layers, vocab_size = 256, 4, 50272

    measured, keys = one["measured"], ("latency_s", "throughput_tokens_per_s")
    expected = format_benchmark_log(
        model_bytes(Shape), cache_bytes(Shape, 2, 17), hidden_bytes(Shape, 2, 17), measured["peak_gpu_memory_bytes"],
        *(measured[phase][key] for phase in ("prefill", "decode", "total") for key in keys),
    )  # fmt: skip
    assert one["benchmark_log"] == expected
    assert Path(name).read_text() == expected + "\n"
    assert len(parse_benchmark_log(one["predicted_benchmark_log"])) == 1


def test_a_second_run_appends_to_the_log_and_has_its_own_run_file(run):
    first, second = run(), run()
    assert first["log_file"] == second["log_file"]
    assert len(parse_benchmark_log(Path(first["log_file"]).read_text())) == 2
    assert first["run_file"] != second["run_file"]
    assert json.loads(Path(second["run_file"]).read_text()) == second


def test_one_token_has_no_decode_phase(run):
    one = run(gen_len=1)
    assert one["measured"]["decode"]["latency_s"] is None
    assert one["measured"]["decode"]["throughput_tokens_per_s"] is None
    assert one["error"]["decode_latency"] is None
    assert "decode latency: 0.000 s" in one["benchmark_log"]


def test_the_environment_is_recorded(run):
    environment = run()["environment"]
    assert environment["versions"]["torch"]
    assert environment["versions"]["deepspeed"]
    assert environment["cpu"]["cores"] >= 1
    assert environment["memory"]["total_bytes"] > environment["memory"]["available_bytes"] > 0
    assert environment["disk"]["free_bytes"] > 0


def test_run_generation_takes_seed_001s_arguments_and_returns_nothing(models, offload_dir, tmp_path, capfd):
    log = tmp_path / "here.log"
    found = calibrate.run_generation(
        models["opt"], 1, 8, 3, True, False, str(offload_dir), 1, 1, True, str(log), 2, True, 16, 64, False, False, 1,
        dtype="fp32", device="cpu", warmup=0,
    )  # fmt: skip
    assert found is None
    assert "total throughput" in log.read_text()
    printed = capfd.readouterr().out
    assert "generated:" in printed
    assert printed.startswith("Fits: ")  # the answer in five lines, then both logs
    assert printed.index("\nmeasured:\n") < printed.index("\npredicted:\n")


def test_real_weights_with_a_tokenizer_get_the_original_prompt(run, models, tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "Paris", "is", "the", "capital", "city", "of"]
    plain = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = Whitespace()
    folder = tmp_path / "real"
    config = AutoConfig.from_pretrained(models["llama"])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>").save_pretrained(
        folder
    )
    one = run(model_name=str(folder), dummy=False)
    assert one["raw"]["text"] is not None
    assert len(one["raw"]["text"]) == 2
    # Two equal prompts.
    assert one["raw"]["tokens"][0] == one["raw"]["tokens"][1]


def test_two_ranks_generate_the_same_tokens(run):
    plain = run(system="transformers")["raw"]["tokens"]
    two = run(num_gpus_per_node=2, cpu_offload=True, allow_concurrent=True)
    assert two["raw"]["tokens"] == plain
    assert two["run"]["ranks"] == 2
    assert two["measured"]["gathered_bytes_per_pass"] > 0
    assert two["log_file"].startswith("ds-tiny-opt-bs2-prompt12-gen5-n1x2-cpu")
