"""The benchmark log: estimates, file name, text, appending, and reading back.

Numbers come from the logs in the FlexGen reproduction notes ("seed 004": OPT-30B, prompt 512, generation 32)
and from the documented code of DeepSpeedExamples' zero_inference/utils.py ("seed 000").
"""

import os
import subprocess
import sys
import threading
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.errors import OutputError, SpecError
from llm_perf.report import benchmark_log
from llm_perf.report.benchmark_log import (
    GB,
    KB,
    MB,
    BenchmarkLogRecord,
    T,
    cache_bytes,
    format_benchmark_log,
    get_filename,
    hidden_bytes,
    model_bytes,
    parse_benchmark_log,
    write_benchmark_log,
)


@dataclass(frozen=True)
class Shape:
    hidden_size: int
    num_hidden_layers: int
    vocab_size: int


OPT_30B = Shape(hidden_size=7168, num_hidden_layers=48, vocab_size=50272)
OPT_66B = Shape(hidden_size=9216, num_hidden_layers=64, vocab_size=50272)
SEQ_LEN = 512 + 32

VALUES = (12 * GB, 2 * GB, MB, 12_000_000_000, 3.456, 2370.37, 52.789, 9.396, 56.245, 9.1)
TEXT = (
    "model size: 12.000 GB\tcache size: 2.000 GB\thidden size (p): 0.001 GB\n"
    "peak gpu mem: 11.176 GB\tprefill latency: 3.456 s\tprefill throughput: 2370.370 token/s\n"
    "decode latency: 52.789 s\tdecode throughput: 9.396 token/s\n"
    "total latency: 56.245 s\ttotal throughput: 9.100 token/s"
)
RECORD = BenchmarkLogRecord(12.0, 2.0, 0.001, 11.176, 3.456, 2370.37, 52.789, 9.396, 56.245, 9.1)


# The estimates


def test_constants() -> None:
    assert (KB, MB, GB, T) == (1024, 1024**2, 1024**3, 1e12)
    assert all(isinstance(unit, int) for unit in (KB, MB, GB))


@pytest.mark.parametrize(("shape", "gib"), [(OPT_30B, "55.803"), (OPT_66B, "122.375")])
def test_model_size(shape: Shape, gib: str) -> None:
    assert f"{model_bytes(shape) / GB:.3f}" == gib


def test_model_bytes_term_by_term() -> None:
    """To the byte, where three decimals of a GiB would not show a missing bias.

    With hidden size 1 a layer has 3 + 1 (Q, K, V: one bias for the three), 1 + 1 (output), 4 + 4 and 4 + 1
    (MLP) and 4 (norms) elements; a vocabulary row has 1 + 1.
    """
    assert model_bytes(Shape(1, 1, 0)) == 2 * (4 + 2 + 8 + 5 + 4)
    assert model_bytes(Shape(1, 0, 1)) == 2 * 2
    assert model_bytes(OPT_30B) == 59_918_387_392


@pytest.mark.parametrize(
    ("batch_size", "cache_gib", "hidden_gib"),
    [
        (192, "133.875", "1.395"),
        (144, "100.406", "1.046"),
        (96, "66.938", "0.697"),
        (48, "33.469", "0.349"),
    ],
)
def test_cache_and_hidden_size_of_opt_30b(batch_size: int, cache_gib: str, hidden_gib: str) -> None:
    assert f"{cache_bytes(OPT_30B, batch_size, SEQ_LEN) / GB:.3f}" == cache_gib
    assert f"{hidden_bytes(OPT_30B, batch_size, SEQ_LEN) / GB:.3f}" == hidden_gib


def test_cache_size_of_opt_66b() -> None:
    assert cache_bytes(OPT_66B, 16, SEQ_LEN) / GB == 19.125


shapes = st.builds(Shape, st.integers(1, 10**5), st.integers(1, 10**3), st.integers(1, 10**6))
counts = st.integers(1, 10**6)


@given(shapes, counts, counts, counts)
def test_cache_and_hidden_are_linear_in_batch_and_length(
    shape: Shape, batch: int, length: int, n: int
) -> None:
    for size in (cache_bytes, hidden_bytes):
        one = size(shape, batch, length)
        assert type(one) is int
        assert size(shape, n * batch, length) == size(shape, batch, n * length) == n * one


@given(shapes, counts, counts)
def test_the_cache_is_one_key_and_one_value_of_hidden_size_per_layer(
    shape: Shape, batch: int, length: int
) -> None:
    per_layer = cache_bytes(shape, batch, length) / shape.num_hidden_layers
    assert per_layer == 2 * hidden_bytes(shape, batch, length)


@given(shapes)
def test_model_bytes_is_the_sum_of_its_layers_and_its_embedding(shape: Shape) -> None:
    embedding = model_bytes(replace(shape, num_hidden_layers=0))
    layer = model_bytes(replace(shape, num_hidden_layers=1)) - embedding
    assert model_bytes(shape) == embedding + shape.num_hidden_layers * layer
    assert layer > 2 * 12 * shape.hidden_size**2


# The file name


def test_filename_of_seed_000s_example() -> None:
    name = get_filename("facebook/opt-66b", 16, 512, 32, True, False, 1, 1, False, True)
    assert name == "ds-opt-66b-bs16-prompt512-gen32-n1x1-cpu-w_quant"


@pytest.mark.parametrize(
    ("cpu", "disk", "kv", "quantized", "end"),
    [
        (False, False, False, False, "n2x8-gpu"),
        (False, True, False, False, "n2x8-disk"),
        (True, True, False, False, "n2x8-cpu"),
        (False, False, True, False, "n2x8-gpu-kv_offload"),
        (True, False, True, True, "n2x8-cpu-kv_offload-w_quant"),
    ],
)
def test_filename_says_where_things_are(cpu: bool, disk: bool, kv: bool, quantized: bool, end: str) -> None:
    name = get_filename("my-model", 8, 64, 16, cpu, disk, 2, 8, kv, quantized)
    assert name == f"ds-my-model-bs8-prompt64-gen16-{end}"


# Writing


def test_format_is_the_originals_to_the_byte() -> None:
    assert format_benchmark_log(*VALUES) == TEXT


def test_a_run_without_decode_phase_prints_zeros() -> None:
    text = format_benchmark_log(GB, GB, GB, GB, 1.5, 10.0, None, None, 1.5, 1.0)
    assert "\ndecode latency: 0.000 s\tdecode throughput: 0.000 token/s\n" in text


@pytest.mark.parametrize("position", [0, 3, 9])
@pytest.mark.parametrize("value", [None, "fast"])
def test_what_is_no_number_is_named(position: int, value: object, tmp_path: Path) -> None:
    values = list(VALUES)
    values[position] = value
    names = {0: "model_size", 3: "gpu_peak_mem", 9: "total_throughput"}
    with pytest.raises(SpecError, match=f"^{names[position]} = {value!r}: expected a number$"):
        write_benchmark_log(tmp_path / "run.log", *values)
    assert list(tmp_path.iterdir()) == []


def test_records_are_appended_with_a_newline_each(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_bytes(b"before\n")
    assert write_benchmark_log(log, *VALUES) == TEXT
    assert write_benchmark_log(str(log), *VALUES) == TEXT
    assert log.read_bytes() == b"before\n" + 2 * (TEXT.encode() + b"\n")


def test_arguments_have_the_originals_names(tmp_path: Path) -> None:
    names = (
        "model_size cache_size hidden_size gpu_peak_mem prefill_latency prefill_throughput "
        "decode_latency decode_throughput total_latency total_throughput"
    )
    by_name = dict(zip(names.split(), VALUES, strict=True))
    assert write_benchmark_log(filename=str(tmp_path / "run.log"), **by_name) == TEXT


def test_a_new_log_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    write_benchmark_log(tmp_path / "run.log", *VALUES)
    (tmp_path / "other").write_text("")
    assert (tmp_path / "run.log").stat().st_mode == (tmp_path / "other").stat().st_mode


WRITE_200 = """
import sys
from llm_perf.report import benchmark_log
if sys.argv[3] == "no locks":
    benchmark_log.fcntl = None
print("ready", flush=True)
sys.stdin.readline()
for number in range(200):
    benchmark_log.write_benchmark_log(sys.argv[1], *[int(sys.argv[2])] * 9, number)
"""


def _write_at_the_same_time(log: Path, marks: tuple[str, ...], locks: str) -> None:
    start = [sys.executable, "-c", WRITE_200, log]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([*start, mark, locks], **pipes) for mark in marks]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0


@pytest.mark.parametrize("locks", ["locks", "no locks"])
def test_two_processes_never_interleave(locks: str, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    _write_at_the_same_time(log, ("1", "2"), locks)

    lines = log.read_text().splitlines()
    written = ["\n".join(lines[start : start + 4]) for start in range(0, len(lines), 4)]
    for mark in (1, 2):
        mine = [text for text in written if f"decode latency: {mark}.000 s" in text]
        assert mine == [format_benchmark_log(*[mark] * 9, number) for number in range(200)]
    assert len(written) == 400
    assert len(parse_benchmark_log(log.read_text())) == 400


def test_a_writer_waits_for_another_that_holds_the_lock(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    log = tmp_path / "run.log"
    writer = threading.Thread(target=write_benchmark_log, args=(log, *VALUES))
    with log.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        writer.start()
        writer.join(timeout=0.2)
        assert writer.is_alive()
        assert log.read_text() == ""
    writer.join(timeout=60)
    assert log.read_text() == TEXT + "\n"


def test_one_record_is_one_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without locks this is what keeps records whole, whatever the two processes above happened to do."""
    writes = []
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(data) or real_write(fd, data))
    write_benchmark_log(tmp_path / "run.log", *VALUES)
    assert writes == [TEXT.encode() + b"\n"]


def _missing_folder(folder: Path) -> Path:
    return folder / "missing" / "run.log"


def _file_as_folder(folder: Path) -> Path:
    (folder / "file").write_text("kept")
    return folder / "file" / "run.log"


def _folder_as_file(folder: Path) -> Path:
    (folder / "run.log").mkdir()
    return folder / "run.log"


def _null_byte(folder: Path) -> Path:
    return folder / "run\0.log"


@pytest.mark.parametrize("make_path", [_missing_folder, _file_as_folder, _folder_as_file, _null_byte])
def test_an_unwritable_target_leaves_nothing_behind(make_path, tmp_path: Path) -> None:
    path = make_path(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError) as caught:
        write_benchmark_log(path, *VALUES)
    assert repr(str(path)) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' device that is always full")
def test_a_full_device_is_reported() -> None:
    with pytest.raises(OutputError, match=r"/dev/full.*No space left"):
        write_benchmark_log("/dev/full", *VALUES)


WRITE_WITH_50_BYTES_LEFT = """
import pathlib, resource, sys
from llm_perf.errors import OutputError
from llm_perf.report.benchmark_log import write_benchmark_log
log = pathlib.Path(sys.argv[1])
limit = log.stat().st_size + 50
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_benchmark_log(log, *[1] * 10)
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_disk_that_fills_up_leaves_no_half_record(tmp_path: Path) -> None:
    """With 50 bytes left the system writes 50 bytes of the record and reports no error."""
    log = tmp_path / "run.log"
    write_benchmark_log(log, *VALUES)
    command = [sys.executable, "-c", WRITE_WITH_50_BYTES_LEFT, log]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "only a part of the record could be written" in done.stdout
    assert log.read_text() == TEXT + "\n"


# Reading

# Seed 004, section 1.4: what FlexGen printed, with its announcement, its warnings and its own extra field.
FLEXGEN = """\
run flexgen>: args.model: facebook/opt-30b
model size: 55.803 GB, cache size: 133.875 GB, hidden size (prefill): 1.395 GB

self.load_weight_start_events
(32, 98, 4)
Outputs:
-----
0: Paris is the capital city of France
TorchDevice: cuda:0
  cur_mem: 1.3123 GB, peak_mem: 7.0379 GB
model size: 55.803 GB cache size: 133.875 GB hidden size (p): 1.395 GB
peak gpu mem: 7.038 GB projected: False
prefill latency: 164.071 s prefill throughput: 599.154 token/s
decode latency: 503.554 s decode throughput: 11.820 token/s
total latency: 667.625 s total throughput: 9.203 token/s
"""
FLEXGEN_RECORD = BenchmarkLogRecord(
    55.803, 133.875, 1.395, 7.038, 164.071, 599.154, 503.554, 11.82, 667.625, 9.203, {"projected": "False"}
)

# Seed 004, section 1.5.
FLEXGEN_ONE_BATCH = """\
model size: 55.803 GB cache size: 33.469 GB hidden size (p): 0.349 GB
peak gpu mem: 6.454 GB projected: False
prefill latency: 44.559 s prefill throughput: 551.544 token/s
decode latency: 153.554 s decode throughput: 9.690 token/s
total latency: 198.112 s total throughput: 7.753 token/s
"""

# Seed 004, distributed FlexGen: its projection of the decode latency failed.
FLEXGEN_RANK = """\
rank #3: cur_mem: 4.0911 GB, peak_mem: 0.0000 GB
rank #3: model size: 55.803 GB cache size: 100.406 GB hidden size (prefill): 1.046 GB
peak gpu mem: 2.173 GB
prefill latency: 68.99 s prefill throughput: 1068.64 token/s
decode latency: nan s decode throughput: nan token/s
total latency: nan s total throughput: nan token/s
"""


def test_parse_the_originals_log() -> None:
    assert parse_benchmark_log(TEXT) == [RECORD]


def test_parse_flexgens_output() -> None:
    assert parse_benchmark_log(FLEXGEN) == [FLEXGEN_RECORD]


def test_parse_several_records_among_other_output() -> None:
    first, second, third = parse_benchmark_log(FLEXGEN + FLEXGEN_ONE_BATCH + FLEXGEN_RANK + "done\n")
    assert first == FLEXGEN_RECORD
    assert astuple(second) == (
        *(55.803, 33.469, 0.349, 6.454, 44.559, 551.544, 153.554, 9.69, 198.112, 7.753),
        {"projected": "False"},
    )
    assert astuple(third) == (55.803, 100.406, 1.046, 2.173, 68.99, 1068.64, None, None, None, None, {})


def test_the_throughputs_of_flexgens_logs_follow_from_their_latencies() -> None:
    """The reader took each number from its own field: batch 192, prompt 512, generation 32 give all three."""
    (record,) = parse_benchmark_log(FLEXGEN)
    assert record.prefill_throughput_tokens_per_s == pytest.approx(
        192 * 512 / record.prefill_latency_s, rel=1e-4
    )
    assert record.decode_throughput_tokens_per_s == pytest.approx(
        192 * 31 / record.decode_latency_s, rel=1e-4
    )
    assert record.total_throughput_tokens_per_s == pytest.approx(192 * 32 / record.total_latency_s, rel=1e-4)


@pytest.mark.parametrize("prefix", ["rank #0: ", "  ", ""])
def test_every_line_may_have_a_prefix(prefix: str) -> None:
    assert parse_benchmark_log("".join(prefix + line for line in TEXT.splitlines(keepends=True))) == [RECORD]


def test_commas_between_fields_are_accepted() -> None:
    assert parse_benchmark_log(TEXT.replace("\t", ", ").replace("\n", ",\n")) == [RECORD]


spaces = st.sampled_from([" ", "\n", "\t", "  ", "\r\n", " \n  "])


@given(st.lists(spaces, min_size=len(TEXT.split()) - 1, max_size=len(TEXT.split()) - 1))
def test_a_log_may_be_wrapped_at_any_space(between: list[str]) -> None:
    words = TEXT.split()
    wrapped = words[0] + "".join(space + word for space, word in zip(between, words[1:], strict=True))
    assert parse_benchmark_log(wrapped) == [RECORD]


numbers = st.floats(min_value=0, max_value=1e15, allow_nan=False)
records = st.tuples(*[numbers] * 10)


@given(st.lists(records, min_size=1, max_size=5))
def test_parsing_undoes_formatting_to_three_decimals(rows: list[tuple[float, ...]]) -> None:
    text = "\n".join(format_benchmark_log(*row) for row in rows)
    parsed = parse_benchmark_log(text)
    assert len(parsed) == len(rows)
    for record, row in zip(parsed, rows, strict=True):
        printed = [value / GB for value in row[:4]] + list(row[4:])
        assert list(astuple(record)[:-1]) == pytest.approx(printed, abs=0.000501, rel=1e-15)
        assert record.extra == {}


@given(st.lists(records, min_size=1, max_size=5))
def test_formatting_what_was_parsed_gives_the_same_text(rows: list[tuple[float, ...]]) -> None:
    text = "\n".join(format_benchmark_log(*row) for row in rows)
    again = []
    for record in parse_benchmark_log(text):
        values = astuple(record)[:-1]
        again.append(format_benchmark_log(*[value * GB for value in values[:4]], *values[4:]))
    assert "\n".join(again) == text


@pytest.mark.parametrize("text", ["", "\n \t\r\n"])
def test_blank_text_has_no_records(text: str) -> None:
    assert parse_benchmark_log(text) == []


def test_a_tiny_negative_difference_reads_as_zero() -> None:
    (record,) = parse_benchmark_log(TEXT.replace("52.789", "-0.000"))
    assert str(record.decode_latency_s) == "0.0"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "3.456 s",
            "fast s",
            "line 2: prefill latency: 'fast s': expected a number of at least 0, or nan, and",
        ),
        ("3.456 s", "3.456 ms", "line 2: prefill latency: '3.456 ms': .* the unit s"),
        ("3.456 s", "3.456", "line 2: prefill latency: '3.456': .* the unit s"),
        ("3.456 s", "-3.456 s", "line 2: prefill latency: '-3.456': expected a number of at least 0"),
        ("3.456 s", "inf s", "line 2: prefill latency: 'inf s': expected a number"),
        ("3.456 s", "1e999 s", "line 2: prefill latency: '1e999': expected a number"),
        ("3.456 s", "3_4 s", "line 2: prefill latency: '3_4 s': expected a number"),
        ("12.000 GB", "12.000 MB", "line 1: model size: '12.000 MB': .* the unit GB"),
        ("9.396 token/s", "9.396 s", "line 3: decode throughput: '9.396 s': .* the unit token/s"),
        ("decode latency: 52.789 s\t", "", "line 3: expected 'decode latency', found 'decode throughput'"),
        ("cache size: 2.000 GB\t", "", "line 1: expected 'cache size', found 'hidden size .p.'"),
        ("model size: 12.000 GB\t", "", "line 1: expected 'model size', found 'cache size'"),
        ("\ttotal throughput: 9.100 token/s", "", "line 4: the record ends before 'total throughput'"),
        ("9.100 token/s", "", "line 4: total throughput: '': expected a number"),
        ("52.789 s\t", "52.789 s oops ", "line 3: 'oops' after 'decode latency' is no field"),
    ],
)
def test_malformed_text_is_refused_by_line_and_field(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(SpecError, match=f"^benchmark log, {message}"):
        parse_benchmark_log(TEXT.replace(old, new))


def test_line_numbers_count_all_lines_before() -> None:
    with pytest.raises(SpecError, match="line 14: decode latency: 'x s'"):
        parse_benchmark_log(FLEXGEN.replace("503.554", "x"))
    wrapped_announcement = FLEXGEN.replace("133.875 GB,", "133.875 GB,\n")
    with pytest.raises(SpecError, match="line 15: decode latency: 'x s'"):
        parse_benchmark_log(wrapped_announcement.replace("503.554", "x"))


def test_a_record_cut_short_does_not_swallow_the_next() -> None:
    cut = "\n".join(TEXT.splitlines()[:2])
    with pytest.raises(SpecError, match="line 3: expected 'decode latency', found 'model size'"):
        parse_benchmark_log(f"{cut}\n{TEXT}\n")


@pytest.mark.parametrize("text", ["no log at all\n", FLEXGEN.split("Outputs")[0]])
def test_text_without_record_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"expected 'model size: \.\.\. GB', which is nowhere in the text"):
        parse_benchmark_log(text)


@given(st.text())
def test_any_other_text_is_refused(text: str) -> None:
    # A label by chance is out of reach for Hypothesis, so that what is not blank is refused.
    if text.strip():
        with pytest.raises(SpecError) as caught:
            parse_benchmark_log(text)
        assert "\n" not in str(caught.value)
    else:
        assert parse_benchmark_log(text) == []


@given(st.integers(0, len(TEXT) - 1), st.integers(0, len(TEXT) - 1), st.text(max_size=3))
def test_a_damaged_log_is_read_or_refused(start: int, end: int, middle: str) -> None:
    damaged = TEXT[:start] + middle + TEXT[end:]
    try:
        parsed = parse_benchmark_log(damaged)
    except SpecError:
        return
    assert all(len(astuple(record)) == len(benchmark_log._FIELDS) + 1 for record in parsed)
