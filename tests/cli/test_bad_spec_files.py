"""Bad spec files: a field that cannot be, and files that are none; one clear line on stderr, exit 2, nothing left behind."""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_perf.config import files
from llm_perf.config.files import parse_mapping
from llm_perf.errors import SpecError
from tests.cli.refusals import SMALL, refused

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


def test_yaml_is_what_pyyaml_reads() -> None:
    for text in (
        "a: &one [1, 2.5, x]\nb: *one\nc: {<<: {d: 1, e: 2}, f: 0x10}",
        "a: &m {d: 1, e: 2}\nb: {<<: *m, d: 3}\nc: {d: 4, <<: [*m, {f: 5}]}",
        "a: ~\nb: yes\nc: '1'\nd: 1.0e+3\ne: 2020-01-01\n1: !!str 7\nf: !!set {x, y}",
        "a: |\n  two\n  lines\nb: >-\n  one\n  line\nc: []\nd: {}",
    ):
        assert parse_mapping(text, "x.yaml") == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &one [1, *one]", "x.yaml:1: malformed YAML: a value contains itself"),
        ("a: 1\n? [b]\n: 2", "x.yaml:2: malformed YAML: found unhashable key"),
        ("a: 1\n? !!set {b}\n: 2", "x.yaml:2: malformed YAML: found unhashable key"),
        ("a: 1\nb: !!bool x", "x.yaml:2: malformed YAML: 'x' is no value of bool"),
        ("a: &m {p: 1}\nb: {<<: *m, q: 2, q: 3}", "x.yaml:2: 'q' stands twice, here and in line 2"),
        ("a: !!python/name:os.system", "x.yaml:1: malformed YAML: could not determine a constructor for the tag"),
    ],
)  # fmt: skip
def test_yaml_that_no_spec_is(text: str, message: str) -> None:
    with pytest.raises(SpecError) as refusal:
        parse_mapping(text, "x.yaml")
    assert str(refusal.value).startswith(message)


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


def test_a_carriage_return_inside_a_cell_is_one_line(llm_perf: Any, folder: Path) -> None:
    (folder / "runs.csv").write_bytes(b"system,model\nvllm,opt\r-1.3b\n")
    found = llm_perf("compare", "runs.csv")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "runs.csv:" in found.err
    assert "malformed CSV" in found.err
