"""Bad input: one clear line on stderr, exit 2, nothing on stdout, nothing on disk.

The cases are those of the review of llm-analysis (where two thirds of them were accepted or ended in a bare
ZeroDivisionError), as flags, and whatever else a user may get wrong. The borderline ones that are
accepted on purpose are at the end. Spec files have tests of their own.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click
import pytest

from llm_perf.cli.infer import infer as infer_command
from llm_perf.cli.options import WHOLE
from tests.cli.refusals import SMALL, ZERO, refused

# -- every number, on its own ---------------------------------------------------------------------------------

COUNTS = [option for option in infer_command.params if option.type is WHOLE]
FRACTIONS = [option for option in infer_command.params if option.type is click.FLOAT]
NO_COUNTS = [
    "-1",
    "-4",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1.5e0",
    "1e-3",
    "1__000",
    "",
    " ",
    "four",
    "0x10",
    "1" + "0" * 13,
    "9" * 40,
    "9" * 5000,
]
NO_RATES = ["-0.5", "-3", "nan", "inf", "-inf", "1e309", "1e300", "-1e-300", "", "half", "0,5"]


def test_every_number_is_tried() -> None:
    names = {option.opts[0] for option in COUNTS + FRACTIONS}
    assert names >= {
        "--batch-size",
        "--tp-size",
        "--kv-bits",
        "--ds-zero",
        "--quant-group-size",
        "--num-nodes",
    }
    assert names >= {"--flops-efficiency", "--hbm-memory-efficiency", "--cost-per-gpu-hour"}


@pytest.mark.parametrize("value", NO_COUNTS, ids=lambda value: repr(value[:20]))
@pytest.mark.parametrize("option", COUNTS, ids=lambda option: option.opts[0])
def test_a_count_is_a_positive_whole_number(infer: Any, option: click.Option, value: str) -> None:
    assert _names(refused(infer, SMALL | {option.opts[0]: value}), option)


MAY_BE_ZERO = (
    "--ds-zero", "--n-gpu-layers", "--n-cpu-moe", "--kt-num-gpu-experts", "--kt-gpu-prefill-token-threshold",
    "--kt-max-deferred-experts-per-token",
)  # fmt: skip


@pytest.mark.parametrize("option", [option.opts[0] for option in COUNTS if option.opts[0] not in MAY_BE_ZERO])
def test_a_count_is_not_zero(infer: Any, option: str) -> None:
    assert option.removeprefix("--").replace("-", "_") in refused(infer, SMALL | {option: "0"})


@pytest.mark.parametrize("value", NO_RATES)
@pytest.mark.parametrize("option", FRACTIONS, ids=lambda option: option.opts[0])
def test_a_rate_is_a_plausible_number(infer: Any, option: click.Option, value: str) -> None:
    assert _names(refused(infer, SMALL | {option.opts[0]: value}), option)


@pytest.mark.parametrize("value", ["0", "1e-12", "1.5", "1.0000001"])
@pytest.mark.parametrize("option", ["--flops-efficiency", "--hbm-memory-efficiency"])
def test_an_efficiency_is_above_0_and_at_most_1(infer: Any, option: str, value: str) -> None:
    assert option[2:].replace("-", "_") in refused(infer, SMALL | {option: value})
    assert infer("--model", "opt-1.3b", "--gpu", "t4", option, "1").code == 0


def _names(error: str, option: click.Option) -> bool:
    return option.opts[0] in error or option.opts[0].removeprefix("--").replace("-", "_") in error


TEXTS = [option.opts[0] for option in infer_command.params if option.type is click.STRING]


@pytest.mark.parametrize("value", ["", " ", "\t"], ids=repr)
@pytest.mark.parametrize("option", TEXTS)
def test_a_name_is_not_empty(infer: Any, option: str, value: str) -> None:
    if value == "" or option not in ("--log-file", "--output-dir"):  # a file may be called " "
        refused(infer, SMALL | {option: value})


# -- flags that do not go together ----------------------------------------------------------------------------

# Flags added to those of SMALL, and a part of what is said.
FLAGS = {
    "prompt and generation over the positions": ("--prompt-len 2048 --gen-len 100000", "2048 positions"),
    "one token over the positions": ("--prompt-len 2017", "--allow-long-context"),
    "tp 3 of 32 heads": ("--tp-size 3", "possible: 1, 2, 4, 8, 16, 32"),
    "tp 1000": ("--tp-size 1000", "does not divide the 32 attention heads"),
    "more stages than layers": ("--pp-size 48", "more than the 24 layers"),
    "experts of a dense model": ("--ep-size 16 --dp-size 16 --batch-size 16", "is dense"),
    "more expert ranks than ranks": (
        "--model mixtral-8x7b --ep-size 4 --dp-size 2 --batch-size 2",
        "ep_size 4",
    ),
    "more expert ranks than experts": (
        "--model mixtral-8x7b --ep-size 16 --dp-size 16 --batch-size 16",
        "8 experts",
    ),
    "ranks that divide no experts": (
        "--model mixtral-8x7b --ep-size 3 --dp-size 3 --batch-size 3",
        "1, 2, 4, 8",
    ),
    "sequence-parallel ranks": ("--tp-size 4 --sp-size 2", "sp_size 2"),
    "sequence parallel without tensor parallel": ("--sp-size 4", "possible: 1"),
    "context ranks without tokens": ("--cp-size 8 --prompt-len 4", "possible: 1 to 4"),
    "context ranks under FlexGen": ("--cp-size 2 --system flexgen", "does not know --cp-size"),
    "micro-batches without stages": ("--micro-batches 2", "--pp-size"),
    "micro-batches that do not divide": ("--pp-size 2 --micro-batches 3 --batch-size 4", "possible: 1, 2, 4"),
    "micro-batches of ZeRO": ("--ds-zero 3 --micro-batches 2", "does not know --micro-batches"),
    "imbalance without experts": ("--expert-imbalance 2", "ep_size above 1"),
    "imbalance below even": ("--expert-imbalance 0.5", "expert_imbalance"),
    "prefix beyond the prompt": ("--prefix-hit-rate 1.5", "prefix_hit_rate"),
    "no tokens per chunk": ("--prefill-chunk 0", "prefill_chunk"),
    "draft without acceptance": ("--draft-model opt-125m", "--acceptance-rate"),
    "acceptance said twice": (
        "--draft-model opt-125m --acceptance-rate 0.5 --token-acceptance 0.5",
        "--token-acceptance",
    ),
    "shares without draft": ("--acceptance .5,.4", "--draft-model"),
    "rising shares": ("--draft-model opt-125m --acceptance .4,.5", "acceptance rises"),
    "a share above one": ("--draft-model opt-125m --acceptance 1.5", "is no share"),
    "shares beside draft tokens": (
        "--draft-model opt-125m --acceptance .5,.4 --draft-tokens 3",
        "give one of the two",
    ),
    "a module that is not there": (
        "--draft-model mtp --acceptance .5",
        "no multi-token prediction module (mtp_layers); possible: eagle, or a model that drafts",
    ),
    "a module of a model with experts": (
        "--model mixtral-8x7b --draft-model mtp --acceptance .5",
        "(mtp_layers); possible: a model that drafts, by its name or as a file",
    ),
    "a module whose layer is not known": (
        "--model glm-5.3-flash --draft-model mtp --acceptance .5",
        "is not known; possible: a model that drafts, by its name or as a file",
    ),
    "acceptance without draft": ("--acceptance-rate 0.5", "--draft-model"),
    "acceptance above one": ("--draft-model opt-125m --acceptance-rate 2", "acceptance_rate"),
    "unknown draft": ("--draft-model nothing --acceptance-rate 0.5", "nothing"),
    "prices that are no file": ("--prices nowhere.yaml", "nowhere.yaml"),
    "ZeRO stage 7": ("--ds-zero 7", "one of 0, 1, 2, 3"),
    "ZeRO stage 3 and another system": ("--ds-zero 3 --system resident", "zero_inference"),
    "ZeRO stage 3 and a stack": ("--ds-zero 3 --system ft", "zero_inference"),
    "ZeRO stage 2 and stage 3's system": ("--ds-zero 2 --system zero_inference", "stage 3"),
    "ZeRO stage 3 and tensor parallelism": ("--ds-zero 3 --tp-size 2", "tp_size"),
    "ZeRO stage 3 and a pipeline": ("--ds-zero 3 --pp-size 2", "pp_size"),
    "weights on two tiers": ("--ds-zero 3 --cpu-offload --disk-offload", "exclude each other"),
    "offload in a resident system": ("--cpu-offload", "zero_inference"),
    "cache offload in a resident system": ("--kv-offload", "zero_inference"),
    "no disk to offload to": ("--host aurora-node --ds-zero 3 --disk-offload", "no disk"),
    "two widths of weights": ("--quant-bits 4 --weight-bits 8", "quant_bits 4"),
    "weights of 3 bits": ("--weight-bits 3", "4, 8, 16, 32"),
    "weights of -16 bits": ("--weight-bits -16", "4, 8, 16, 32"),
    "quantised to 32 bits": ("--quant-bits 32", "4, 8 or 16"),
    "cache of 0 bits": ("--kv-bits 0", "kv_bits"),
    "GPUs that do not multiply up": ("--num-gpus 4 --tp-size 2 --dp-size 4", "4 GPUs"),
    "GPUs that do not divide": ("--num-gpus 5 --tp-size 2", "does not divide"),
    "GPUs that do not spread over nodes": ("--num-nodes 3 --tp-size 4", "3 nodes"),
    "a batch that does not divide": ("--dp-size 4 --batch-size 6", "multiple of dp_size 4"),
    "an ambiguous GPU": ("--gpu v100", "v100-sxm2-16gb"),
    "one bad GPU of two": ("--gpu t5", "'t5'"),
    "an unknown flag": ("--batch 4", "--batch-size"),
    "an argument too many": ("3", "(3)"),
    "a flag without its value": ("--host", "--host"),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags_that_do_not_go_together(infer: Any, name: str) -> None:
    flags, said = FLAGS[name]
    assert said in refused(infer, ["--model", "opt-1.3b", "--gpu", "t4", *flags.split()])


@pytest.mark.parametrize("flag", ["--model", "--gpu"])
def test_a_question_needs_a_model_and_a_gpu(infer: Any, flag: str) -> None:
    given = {name: value for name, value in SMALL.items() if name != flag}
    assert f"{flag} is required" in refused(infer, given)


# -- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value", "nearest"),
    [
        ("--model", "opt-1.4b", "opt-1.3b"),
        ("--model", "facebook/opt-176b", "facebook_opt-175b"),
        ("--model", "lama-2-7b", "llama-2-7b"),
        ("--gpu", "h1000", "h100"),
        ("--gpu", "rtx4091", "rtx4090"),
        ("--gpu", "t4x", "t4-16gb"),
        ("--host", "gcp-t5", "gcp-t4"),
        ("--host", "dgx_a10", "dgx-a100"),
        ("--system", "zero-inferenec", "zero_inference"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    infer: Any, flag: str, value: str, nearest: str
) -> None:
    error = refused(infer, SMALL | {flag: value})
    assert repr(value) in error
    assert nearest in error


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--gpu", "2x rtx-3090", "write 'rtx-3090' and how many in --tp-size or --num-gpus"),
        ("--gpu", "8xH100", "write 'H100' and how many"),
        ("--gpu", "rtx-4090 + rtx-3090", "several kinds in one machine are not modelled yet"),
        ("--profile", "nosuch", "known: "),
    ],
)
def test_a_name_that_means_something_else_is_answered_with_what_to_write(
    infer: Any, flag: str, value: str, said: str
) -> None:
    error = refused(infer, SMALL | {flag: value})
    assert repr(value) in error
    assert said in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("infre", "--model", "x"), "did you mean infer?"),
        (("qqq",), "there are infer, train"),
        (("compare", "--model", "opt-1.3b", "--gpu", "t4"), "llm-perf infer --model M --gpu A --gpu B"),
    ],
)
def test_a_wrong_command_is_answered_with_the_right_one(
    llm_perf: Any, arguments: tuple[str, ...], said: str
) -> None:
    outcome = llm_perf(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1
    assert said in outcome.err


NOTHING = [
    "/no/such",
    "/no/such.yaml",
    "~nobody-of-this-name/m.yaml",
    "x" * 5000,
    "../",
    "😀",
    "a\nb",
    "\x1b[31m",
    "\udcff",
]


@pytest.mark.parametrize("value", NOTHING, ids=lambda value: ascii(value)[:20])
@pytest.mark.parametrize("flag", ["--model", "--gpu", "--host", "--profile", "--system"])
def test_a_name_of_nothing(infer: Any, flag: str, value: str) -> None:
    refused(infer, SMALL | {flag: value})


# -- the file of inputs ---------------------------------------------------------------------------------------

INPUTS = [
    ("batch_size", "4"), ("batch_size", 1.5), ("batch_size", 0), ("batch_size", True),
    ("batch_size", [1]), ("batch_size", None),
    ("gen_len", -600), ("prompt_len", math.nan), ("tp_size", -2), ("dp_size", 0), ("ds_zero", 7), ("ds_zero", "3"),
    ("ds_zero", None), ("weight_bits", 3), ("kv_bits", -2), ("quant_bits", 5), ("flops_efficiency", "0.5"),
    ("flops_efficiency", True), ("flops_efficiency", 0), ("hbm_memory_efficiency", math.inf), ("cost_per_gpu_hour", -3),
    ("cost_per_gpu_hour", 1e13), ("cpu_offload", "yes"), ("cpu_offload", 1), ("kv_offload", None),
    ("model", 5), ("model", ""),
    ("gpu", 4), ("gpu", [4]), ("gpu", ["t4", ""]), ("gpu", None), ("gpu", {"name": "t4"}), ("host", ""), ("typo", 1),
    ("batch-size", 4), ("explain", True),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), INPUTS, ids=[f"{field}={value!r}" for field, value in INPUTS])
@pytest.mark.parametrize("nested", [False, True], ids=["plain", "nested"])
def test_a_wrong_input_in_a_file(infer: Any, folder: Path, field: str, value: Any, nested: bool) -> None:
    inputs = {"model": "opt-1.3b", "gpu": "t4", field: value}
    lines = ['"results": 1,'] if nested else []
    lines += ['"inputs": {'] if nested else []
    lines += [f"{json.dumps(name)}: {json.dumps(given)}," for name, given in inputs.items()]
    lines[-1] = lines[-1].rstrip(",") + ("}" if nested else "")
    (folder / "q.json").write_text("{" + "\n".join(lines) + "}")
    number = next(i for i, line in enumerate(lines, 1) if line.startswith(json.dumps(field)))
    error = refused(infer, ["--config", "q.json"])
    assert error.startswith(f"q.json:{number}: ")
    assert field in error


def test_what_a_flag_replaces_is_not_looked_at(infer: Any, folder: Path) -> None:
    (folder / "q.yaml").write_text("model: 5\ngpu: 6\nbatch_size: many\n")
    flags = ("--config", "q.yaml", "--model", "opt-1.3b", "--gpu", "t4", "--batch-size", "2", "--json")
    assert infer(*flags).json["inputs"]["batch_size"] == 2


QUESTIONLESS = [
    "{}", "{inputs: {}}", "{inputs: 3}", "{comparison: []}", "{comparison: 3}", "{comparison: [3]}", "{gpu: t4}", "{gpu: []}",
    "{model: opt-1.3b, gpu: []}",
]  # fmt: skip


@pytest.mark.parametrize("text", QUESTIONLESS)
def test_a_file_without_a_question(infer: Any, folder: Path, text: str) -> None:
    (folder / "q.yaml").write_text(text)
    error = refused(infer, ["--config", "q.yaml"])
    assert "q.yaml" in error or "is required" in error


def test_contradictions_are_found_across_file_and_flags(infer: Any, folder: Path) -> None:
    (folder / "q.yaml").write_text("model: opt-1.3b\ngpu: t4\nds_zero: 3\ncpu_offload: true\n")
    assert "exclude each other" in refused(infer, ["--config", "q.yaml", "--disk-offload"])
    assert infer("--config", "q.yaml", "--disk-offload", "--no-cpu-offload").code == 0


# -- where results go -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        ["--log-file", ""],
        ["--log-file", "folder"],
        ["--log-file", "missing/run.log"],
        ["--log-file", "file/run.log"],
        ["--log-file", "/dev/full"],
        ["--log-file", "x" * 300],
        ["--output-dir", ""],
        ["--output-dir", "file"],
        ["--output-dir", "file/below"],
        ["--output-dir", "/proc/no/such"],
        ["--output-dir", "new/" + "x" * 300],
        ["--output-dir", "new/folder", "--log-file", "missing/run.log"],
        ["--output-dir", "file", "--log-file", "run.log"],
    ],
    ids=lambda flags: " ".join(flag[:20] for flag in flags),
)  # fmt: skip
def test_an_unwritable_output(infer: Any, folder: Path, flags: list[str]) -> None:
    (folder / "folder").mkdir()
    (folder / "file").write_text("kept")
    error = refused(infer, ["--model", "opt-1.3b", "--gpu", "t4", *flags])
    assert flags[-1][:20] in error or flags[1][:20] in error
    assert (folder / "file").read_text() == "kept"


def test_nothing_is_written_for_a_question_that_is_refused(infer: Any, folder: Path) -> None:
    words = [
        "--model",
        "opt-1.3b",
        "--gpu",
        "t4",
        "--gpu",
        "t5",
        "--log-file",
        "run.log",
        "--output-dir",
        "results",
    ]
    refused(infer, words)


# -- what is accepted on purpose ------------------------------------------------------------------------------

ACCEPTED = {
    "uneven pipeline stages": SMALL | {"--pp-size": "5"},
    "as many stages as layers": SMALL | {"--pp-size": "24"},
    "32-bit weights": SMALL | {"--weight-bits": "32", "--activation-bits": "32", "--kv-bits": "32"},
    "ZeRO stage 1": SMALL | {"--ds-zero": "1"},
    "more tensor ranks than KV heads": {"--model": "llama-2-70b", "--gpu": "a100-sxm-40gb", "--tp-size": "16"},
    "the last position": SMALL | {"--prompt-len": "2016"},
    "beyond the last position": SMALL | {"--prompt-len": "2017", "--allow-long-context": ""},
    "sequence parallel": SMALL | {"--tp-size": "4", "--sp-size": "4"},
    "one alias of the system": ZERO | {"--system": "deepspeed-zero-inference"},
    "the same width twice": SMALL | {"--quant-bits": "8", "--weight-bits": "8"},
    "a cost of nothing": SMALL | {"--cost-per-gpu-hour": "0"},
    "no profile": SMALL | {"--profile": "none"},
    "experts over tensor ranks": {"--model": "mixtral-8x7b", "--gpu": "h200", "--tp-size": "4", "--ep-size": "4"},
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_borderline_input_that_is_accepted(infer: Any, name: str) -> None:
    words = [word for pair in ACCEPTED[name].items() for word in pair if word]
    outcome = infer(*words, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["total"]["latency_s"] > 0


def test_uneven_stages_hold_all_layers(infer: Any) -> None:
    """5 stages of 24 layers: the fullest holds 5, as with 24 / 5 rounded up, not 4 with 4 layers lost."""
    memory = [
        infer("--model", "opt-1.3b", "--gpu", "t4", "--pp-size", size, "--json").json["memory"]["gpu"][
            "kv_cache_bytes"
        ]
        for size in ("1", "5", "6")
    ]
    assert memory[1] == pytest.approx(memory[0] * 5 / 24)
    assert memory[2] == pytest.approx(memory[0] * 4 / 24)


@pytest.mark.parametrize(("written", "gib"), [("1e2", 100.0), ("8E+1", 80.0), ("640e-1", 64.0)])
def test_a_number_may_have_an_exponent_without_a_point(
    llm_perf: Any, tmp_path: Path, written: str, gib: float
) -> None:
    gpu = tmp_path / "mine.yaml"
    gpu.write_text(
        f"extends: h100-sxm-80gb\nname: mine\nmemory_gib: {written}\nusable_memory_gib: {written}\n"
    )
    outcome = llm_perf("infer", "--model", "opt-1.3b", "--gpu", str(gpu), "--json")
    assert outcome.json["memory"]["gpu"]["capacity_bytes"] == gib * 2**30
