"""Bad input: one clear line on stderr, exit 2, nothing on stdout, nothing on disk.

The cases are those of the review of llm-analysis (where two thirds of them were accepted or ended in a bare
ZeroDivisionError), as flags and as spec files, and whatever else a user may get wrong. The borderline ones that are
accepted on purpose are at the end.
"""

from __future__ import annotations

import copy
import json
import math
import os
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from llm_perf.cli.infer import infer as infer_command
from llm_perf.cli.options import WHOLE
from llm_perf.config import files

SMALL = {"--model": "opt-1.3b", "--gpu": "t4"}  # 24 layers, 32 heads, 2048 positions
ZERO = {**SMALL, "--ds-zero": "3"}

MODEL = {
    "name": "mine",
    "hidden_size": 2048,
    "vocab_size": 50272,
    "max_position_embeddings": 2048,
    "layer_groups": [
        {
            "count": 24,
            "attention": {"num_heads": 32, "num_kv_heads": 32, "head_dim": 64},
            "mlp": {"ffn_size": 8192},
        }
    ],
}
FLAT = {
    "name": "flat", "num_layers": 24, "n_head": 32, "hidden_dim": 2048, "vocab_size": 50272, "max_seq_len": 2048,
    "ffn_embed_dim": 8192,
}  # fmt: skip
GPU = {
    "name": "mine",
    "peak_tflops": {"fp16": 312},
    "memory_gib": 40,
    "usable_memory_gib": 39,
    "hbm_bandwidth_gb_per_s": 1555,
    "default_host": "dgx-a100",
}
FLAT_GPU = {
    "name": "flat", "mem_per_GPU_in_GB": 40, "hbm_bandwidth_in_GB_per_sec": 1555,
    "intra_node_bandwidth_in_GB_per_sec": 300, "intra_node_min_message_latency": 8e-6, "peak_fp16_TFLOPS": 312,
}  # fmt: skip
HOST = {
    "name": "mine", "memory_gib": 100, "usable_memory_gib": 90, "pcie_generation": 4, "source": "a test",
    "disk": {"capacity_gib": 100, "stated_read_gb_per_s": 2},
}  # fmt: skip


def refused(infer: Any, flags: dict[str, str] | list[str]) -> str:
    """The message of a refused input, which has left nothing behind."""
    words = flags if isinstance(flags, list) else [word for pair in flags.items() for word in pair]
    before = sorted(Path().rglob("*"))
    outcome = infer(*words)
    assert sorted(Path().rglob("*")) == before
    error: str = outcome.error
    assert error.isprintable()
    assert len(error) < 600 + sum(map(len, words))
    return error


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


MAY_BE_ZERO = ("--ds-zero", "--n-gpu-layers", "--n-cpu-moe", "--kt-num-gpu-experts")


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
    "a module that is not there": ("--draft-model mtp --acceptance .5", "no multi-token prediction module"),
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


# -- spec files -----------------------------------------------------------------------------------------------


def changed(spec: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the field at a dotted path set, or removed where the value is Ellipsis."""
    copied: Any = copy.deepcopy(spec)
    *parents, last = path.split(".")
    node = copied
    for part in parents:
        node = node[int(part)] if part.isdigit() else node.setdefault(part, {})
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return copied  # type: ignore[no-any-return]


MODEL_FAULTS = [
    ("vocab_size", -1), ("vocab_size", 0), ("hidden_size", -2048), ("hidden_size", "2048"), ("hidden_size", 2048.5),
    ("hidden_size", True), ("hidden_size", None), ("hidden_size", ...), ("name", ...), ("name", ""), ("name", 5),
    ("name", "two\nlines"), ("name", "\x1b[31mred"), ("name", "x" * 1000), ("layer_groups", []), ("layer_groups", ...),
    ("layer_groups", {}), ("layer_groups.0.count", 0), ("layer_groups.0.count", 10**13), ("layer_groups.0.count", math.nan),
    ("layer_groups.0.attention.num_heads", 0), ("layer_groups.0.attention.num_kv_heads", 0),
    ("layer_groups.0.attention.num_kv_heads", 5), ("layer_groups.0.attention.num_kv_heads", 64),
    ("layer_groups.0.attention.kind", "magic"), ("layer_groups.0.attention", ...), ("layer_groups.0.mlp.ffn_size", -1),
    ("layer_groups.0.mlp", {"kind": "moe", "num_experts": 8, "top_k": 9, "ffn_size": 64}), ("layer_groups.0.mlp.typo", 1),
    ("typo", 1), ("norm", "batchnorm"), ("published_params", -5),
]  # fmt: skip
FLAT_FAULTS = [
    ("n_head", 0), ("num_layers", 0), ("num_key_value_heads", 0), ("num_key_value_heads", 5), ("hidden_dim", 2047),
    ("ffn_embed_dim", -4), ("expansion_ratio", 3), ("expansion_ratio", math.nan), ("moe_num_experts", -8),
    ("max_seq_len", -1), ("vocab_size", ...), ("hidden_dim", ...),
]  # fmt: skip
GPU_FAULTS = [
    ("hbm_bandwidth_gb_per_s", -1555), ("hbm_bandwidth_gb_per_s", 0), ("hbm_bandwidth_gb_per_s", 1e300),
    ("hbm_bandwidth_gb_per_s", "fast"), ("peak_tflops.fp16", math.nan), ("peak_tflops.fp16", math.inf),
    ("peak_tflops.fp16", 0),
    ("peak_tflops.fp17", 1), ("peak_tflops", {}), ("peak_tflops", 312), ("memory_gib", -40), ("usable_memory_gib", 41),
    ("memory_gib", ...), ("default_host", "no such host"), ("default_host", ...), ("efficiency", "no such family"),
    ("efficiency", {"name": "x"}), ("link.topology", "moebius"), ("link.gb_per_s_per_direction", -1),
    ("min_message_latency_us", -1), ("typo", 1), ("name", "\0"), ("peak_tflops", {"int8": 600}),
]  # fmt: skip
FLAT_GPU_FAULTS = [
    ("mem_per_GPU_in_GB", 0), ("hbm_bandwidth_in_GB_per_sec", -1555), ("peak_fp16_TFLOPS", math.nan),
    ("peak_fp16_TFLOPS", ...), ("intra_node_bandwidth_in_GB_per_sec", "x"), ("inter_node_bandwidth_in_GB_per_sec", -5),
    ("intra_node_min_message_latency", -1),
]  # fmt: skip
HOST_FAULTS = [
    ("memory_gib", 0), ("usable_memory_gib", 200), ("pcie_generation", 9), ("pcie_generation", -1), ("pcie_lanes", 0),
    ("source", ...), ("source", ""), ("disk.capacity_gib", -1),
    ("disk", {"capacity_gib": 5}), ("gpus_per_node", 0), ("typo", 1), ("pinned_h2d", {"gb_per_s": 5}),
]  # fmt: skip
SPEC_FAULTS = [
    (flag, spec, path, value)
    for flag, spec, faults in (
        ("--model", MODEL, MODEL_FAULTS),
        ("--model", FLAT, FLAT_FAULTS),
        ("--gpu", GPU, GPU_FAULTS),
        ("--gpu", FLAT_GPU, FLAT_GPU_FAULTS),
        ("--host", HOST, HOST_FAULTS),
    )
    for path, value in faults
]


# What is said where it is not the field's own name: of a part that is wrong, or of what follows from it.
SAID = {
    "default_host": "host",
    "peak_tflops": "16 bits",
    "mlp": "top_k",
    "num_key_value_heads": "num_kv_heads",
    "efficiency": "gemm",
    "disk": "_gb_per_s",
    "pinned_h2d": "provenance",
}


@pytest.mark.parametrize(
    ("flag", "spec", "path", "value"),
    SPEC_FAULTS,
    ids=[f"{spec['name']} {flag[2:]} {path}={str(value)[:20]!a}" for flag, spec, path, value in SPEC_FAULTS],
)
def test_a_spec_file_with_a_fault(
    infer: Any, folder: Path, flag: str, spec: dict[str, Any], path: str, value: Any
) -> None:
    (folder / "mine.yaml").write_text(yaml.safe_dump(changed(spec, path, value)), encoding="utf-8")
    error = refused(infer, {"--model": "opt-1.3b", "--gpu": "a100-sxm-40gb"} | {flag: "mine.yaml"})
    field = path.rpartition(".")[2]
    assert field in error or SAID.get(field, "-") in error, error


@pytest.mark.parametrize(
    "spec", [MODEL, FLAT, GPU, FLAT_GPU, HOST], ids=lambda spec: spec["name"] + str(len(spec))
)
def test_the_same_spec_files_without_a_fault(infer: Any, folder: Path, spec: dict[str, Any]) -> None:
    flag = "--host" if spec is HOST else "--gpu" if spec in (GPU, FLAT_GPU) else "--model"
    (folder / "mine.yaml").write_text(yaml.safe_dump(spec))
    hosted = ["--host", "dgx-a100"] if spec is FLAT_GPU else []
    flags = {"--model": "opt-1.3b", "--gpu": "a100-sxm-40gb"} | {flag: "mine.yaml"}
    assert infer(*[word for pair in flags.items() for word in pair], *hosted).code == 0


def test_the_line_of_a_fault_is_named(infer: Any, folder: Path) -> None:
    text = yaml.safe_dump(changed(MODEL, "layer_groups.0.mlp.ffn_size", -5), sort_keys=False)
    (folder / "mine.yaml").write_text(text)
    line = next(number for number, line in enumerate(text.splitlines(), 1) if "ffn_size" in line)
    error = refused(infer, {"--model": "mine.yaml", "--gpu": "t4"})
    assert error.startswith(f"mine.yaml:{line}: ")
    assert "ffn_size must be greater than 0, got -5" in error


# -- malformed files ------------------------------------------------------------------------------------------

BOMB = "a: &a [lol]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
CONTENTS = {
    "empty": b"",
    "a comment": b"# nothing\n",
    "null": b"null\n",
    "a list": b"- a\n- b\n",
    "a word": b"opt-175b\n",
    "a number": b"175\n",
    "unclosed": b"name: x\nhidden_size: [1, 2\n",
    "a tab": b"name: x\n\thidden_size: 1\n",
    "a doubled colon": b"name: x: y\n",
    "an unknown tag": b"name: !!python/object:os.system x\n",
    "an alias of nothing": b"name: *nothing\n",
    "circular": b"name: &a [*a]\nhidden_size: *a\nlayer_groups: *a\nmemory_gib: *a\ninputs: *a\n",
    "circular mapping": b"inputs: &a\n  inputs: *a\n",
    "binary": bytes(range(256)),
    "UTF-16": "name: x".encode("utf-16"),
    "null bytes": b"name: \0\n",
    "keys that are no text": b"1: 2\ntrue: 3\n",
    "keys that are lists": b"? [a, b]\n: c\n",
    "no date": b"name: 2026-99-99\n",
    "nested deeply": b"[" * 5000,
    "aliases that stand for gigabytes": f"{BOMB}name: *i\nmodel: *i\n".encode(),
    "two documents": b"name: x\n---\nname: y\n",
    "a key twice": b"name: x\nbatch_size: 1\nbatch_size: 2\n",
    "a key twice within": b"inputs: {batch_size: 1, batch_size: 1}\n",
    "long": b"k: 1\n" * 60_000,
    "Latin-1": b"name: x\xe9\n",
    "a mark and a fault": b"\xef\xbb\xbfname: [x\n",
}
JSON_CONTENTS = {
    "empty": b"",
    "unclosed": b'{"name": "x",\n "hidden_size": 5',
    "a list": b"[1, 2]",
    "null": b"null",
    "a trailing comma": b'{"name": "x",}',
    "NaN": b'{"name": "x", "hidden_size": NaN, "memory_gib": NaN, "batch_size": NaN, "system_constants": NaN}',
    "a number of 5000 digits": b'{"name": "x", "hidden_size": ' + b"9" * 5000 + b"}",
    "nested deeply": b"[" * 100_000,
    "nested deeply, with an end": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "binary": bytes(range(256)),
    "a key twice": b'{"name": "x",\n "batch_size": 1,\n "batch_size": 2}',
    "long": b'{"name": [' + b"1," * 17_000_000 + b"1]}",
}
FILES = [("mine.yaml", name, content) for name, content in CONTENTS.items()]
FILES += [("mine.json", name, content) for name, content in JSON_CONTENTS.items()]


@pytest.mark.parametrize("flag", ["--model", "--gpu", "--host", "--profile", "--config"])
@pytest.mark.parametrize(
    ("file", "content"), [(f, c) for f, _, c in FILES], ids=[f"{n}{f[4:]}" for f, n, _ in FILES]
)
def test_a_malformed_file(infer: Any, folder: Path, flag: str, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    assert file in refused(infer, SMALL | {flag: file})


def test_a_key_that_stands_twice_is_shown_with_both_lines(infer: Any, folder: Path) -> None:
    (folder / "q.yaml").write_text("model: opt-1.3b\ngpu: t4\nbatch_size: 1\ngen_len: 3\nbatch_size: 1\n")
    assert refused(infer, ["--config", "q.yaml"]) == "q.yaml:5: 'batch_size' stands twice, here and in line 3"
    (folder / "q.json").write_text('{"model": "opt-1.3b",\n"gpu": "t4",\n"model": "opt-1.3b"}')
    assert refused(infer, ["--config", "q.json"]) == "q.json:3: 'model' stands twice, here and in line 1"


def test_a_byte_order_mark_is_no_part_of_a_file(infer: Any, folder: Path) -> None:
    (folder / "q.yaml").write_bytes(b"\xef\xbb\xbfmodel: opt-1.3b\ngpu: t4\n")
    assert infer("--config", "q.yaml").code == 0


def test_a_pipe_that_nobody_writes_to(infer: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PIPE_S", 0.2)
    os.mkfifo(folder / "pipe.yaml")
    holder = os.open(folder / "pipe.yaml", os.O_RDWR)  # or there is nothing to wait for
    try:
        assert "nothing was written to it" in refused(infer, ["--config", "pipe.yaml"])
    finally:
        os.close(holder)


def test_malformed_text_is_found_by_its_line(infer: Any, folder: Path) -> None:
    (folder / "q.yaml").write_text("model: opt-1.3b\ngpu: [t4\nbatch_size: 1\n")
    assert refused(infer, ["--config", "q.yaml"]).startswith("q.yaml:3: malformed YAML: ")
    (folder / "q.json").write_text('{"model": "opt-1.3b",\n"gpu": "t4"\n"batch_size": 1}')
    assert refused(infer, ["--config", "q.json"]).startswith("q.json:3: malformed JSON: ")


@pytest.mark.parametrize("flag", ["--model", "--gpu", "--host", "--profile", "--config"])
def test_a_folder_where_a_file_belongs(infer: Any, folder: Path, flag: str) -> None:
    (folder / "folder").mkdir()
    (folder / "folder.yaml").mkdir()
    for value in ("folder", "folder.yaml", ".", "/"):
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
