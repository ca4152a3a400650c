"""The benchmark log of ZeRO-Inference: its size estimates, its file name, and its text written and read back.

A prediction and a real run are logged by the same functions, so that the two can be laid side by side.

Source of the formulas and the form: DeepSpeedExamples, inference/huggingface/zero_inference/utils.py.

What the log calls GB is 2**30 bytes. The sizes are the log's *estimates*, for multi-head attention, an MLP of
four times the hidden size, and FP16; exact counts for the real architecture are in `llm_perf.counts`.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from llm_perf.errors import OutputError, SpecError, bad_value

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

KB: Final = 1 << 10
MB: Final = 1 << 20
GB: Final = 1 << 30
T: Final = 1e12

_FP16_BYTES = 2


class ModelShape(Protocol):
    """What the estimates need to know of a model: llm-perf's `ModelConfig` and a transformers config do."""

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""

    @property
    def num_hidden_layers(self) -> int:
        """Number of transformer blocks."""

    @property
    def vocab_size(self) -> int:
        """Number of rows of the token table."""


def model_bytes(config: ModelShape) -> int:
    """Estimate the bytes of all weights in FP16.

    The estimate is the original's to the byte, faults included: one bias vector for Q, K and V together where
    there are three, no final norm, no position table, and a bias per vocabulary row that models do not have.

    Args:
        config: The model's shape.

    Returns:
        Bytes. For OPT-30B 55.803 GB, as in FlexGen's logs.
    """
    h = config.hidden_size
    attention = (h * 3 * h + h) + (h * h + h)
    mlp = (h * 4 * h + 4 * h) + (4 * h * h + h)
    norms = 2 * (h + h)
    embedding = config.vocab_size * (h + 1)
    return _FP16_BYTES * (config.num_hidden_layers * (attention + mlp + norms) + embedding)


def cache_bytes(config: ModelShape, batch_size: int, seq_len: int) -> int:
    """Return the bytes of the FP16 KV cache: a key and a value of the hidden size per token and layer.

    Args:
        config: The model's shape.
        batch_size: Sequences.
        seq_len: Tokens per sequence; the log means prompt and generation together.

    Returns:
        Bytes. Models with grouped-query attention need less than this.
    """
    keys_and_values = 2
    return (
        keys_and_values * batch_size * seq_len * config.num_hidden_layers * config.hidden_size * _FP16_BYTES
    )


def hidden_bytes(config: ModelShape, batch_size: int, seq_len: int) -> int:
    """Return the bytes of the FP16 hidden state that goes from one layer to the next.

    Args:
        config: The model's shape.
        batch_size: Sequences.
        seq_len: Tokens per sequence; the log means prompt and generation together, although it prints "(p)".

    Returns:
        Bytes.
    """
    return batch_size * seq_len * config.hidden_size * _FP16_BYTES


def get_filename(
    model_name: str,
    batch_size: int,
    prompt_len: int,
    gen_len: int,
    cpu_offload: bool,
    disk_offload: bool,
    num_nodes: int,
    num_gpus_per_node: int,
    kv_offload: bool,
    weight_quantize: bool,
) -> str:
    """Name a log after the run that it is of.

    Args:
        model_name: As on the Hugging Face hub; the organisation is left out.
        batch_size: Sequences over all GPUs.
        prompt_len: Tokens of each prompt.
        gen_len: Tokens generated for each prompt.
        cpu_offload: Weights are in CPU memory; goes before `disk_offload`.
        disk_offload: Weights are on NVMe.
        num_nodes: Machines.
        num_gpus_per_node: GPUs of each machine.
        kv_offload: The KV cache is in CPU memory.
        weight_quantize: Weights have fewer than 16 bits.

    Returns:
        The name without suffix: a log file is this and ``".log"``.
    """
    place = "cpu" if cpu_offload else "disk" if disk_offload else "gpu"
    parts = [
        "ds",
        model_name.split("/")[-1],
        f"bs{batch_size}",
        f"prompt{prompt_len}",
        f"gen{gen_len}",
        f"n{num_nodes}x{num_gpus_per_node}",
        place,
    ]
    if kv_offload:
        parts.append("kv_offload")
    if weight_quantize:
        parts.append("w_quant")
    return "-".join(parts)


class _LogField(NamedTuple):
    argument: str  # of format_benchmark_log
    attribute: str  # of BenchmarkLogRecord
    label: str
    unit: str
    end: str  # what stands between this field and the next

    @property
    def scale(self) -> int:
        return GB if self.unit == "GB" else 1


_TOKENS_PER_S = "throughput_tokens_per_s"

# In the order of the text and of the arguments: the one description of the form, for writing and for reading.
_FIELDS: Final = (
    _LogField("model_size", "model_size_gib", "model size", "GB", "\t"),
    _LogField("cache_size", "cache_size_gib", "cache size", "GB", "\t"),
    _LogField("hidden_size", "hidden_size_gib", "hidden size (p)", "GB", "\n"),
    _LogField("gpu_peak_mem", "gpu_peak_mem_gib", "peak gpu mem", "GB", "\t"),
    _LogField("prefill_latency", "prefill_latency_s", "prefill latency", "s", "\t"),
    _LogField("prefill_throughput", f"prefill_{_TOKENS_PER_S}", "prefill throughput", "token/s", "\n"),
    _LogField("decode_latency", "decode_latency_s", "decode latency", "s", "\t"),
    _LogField("decode_throughput", f"decode_{_TOKENS_PER_S}", "decode throughput", "token/s", "\n"),
    _LogField("total_latency", "total_latency_s", "total latency", "s", "\t"),
    _LogField("total_throughput", f"total_{_TOKENS_PER_S}", "total throughput", "token/s", ""),
)


def format_benchmark_log(
    model_size: float,
    cache_size: float,
    hidden_size: float,
    gpu_peak_mem: float,
    prefill_latency: float,
    prefill_throughput: float,
    decode_latency: float | None,
    decode_throughput: float | None,
    total_latency: float,
    total_throughput: float,
) -> str:
    """Return one record of a benchmark log, without a newline at its end.

    Args:
        model_size: Bytes of weights, as `model_bytes` estimates them.
        cache_size: Bytes of KV cache, as `cache_bytes` estimates them.
        hidden_size: Bytes of hidden state, as `hidden_bytes` estimates them.
        gpu_peak_mem: Bytes, the allocator's peak on one GPU.
        prefill_latency: Seconds until the first token.
        prefill_throughput: Prompt tokens per second.
        decode_latency: Seconds of all later tokens. None where there are none (``gen_len`` 1) prints 0.000.
        decode_throughput: Tokens per second while decoding; None as above.
        total_latency: Seconds.
        total_throughput: Generated tokens per second of the whole.

    Raises:
        SpecError: An argument is not a number.
    """
    values = (
        model_size,
        cache_size,
        hidden_size,
        gpu_peak_mem,
        prefill_latency,
        prefill_throughput,
        0.0 if decode_latency is None else decode_latency,
        0.0 if decode_throughput is None else decode_throughput,
        total_latency,
        total_throughput,
    )
    return "".join(_format_field(log_field, value) for log_field, value in zip(_FIELDS, values, strict=True))


def _format_field(log_field: _LogField, value: float) -> str:
    try:
        number = f"{value / log_field.scale:.3f}"
    except (TypeError, ValueError):
        raise bad_value(log_field.argument, value, "a number") from None
    return f"{log_field.label}: {number} {log_field.unit}{log_field.end}"


def write_benchmark_log(
    filename: str | os.PathLike[str],
    model_size: float,
    cache_size: float,
    hidden_size: float,
    gpu_peak_mem: float,
    prefill_latency: float,
    prefill_throughput: float,
    decode_latency: float | None,
    decode_throughput: float | None,
    total_latency: float,
    total_throughput: float,
) -> str:
    """Append one record and a newline to a log file, which is made where there is none.

    Processes may write to one file at the same time: a record is written whole or, on an error, not at all.

    Args:
        filename: The log file. Its folder has to exist.
        model_size: See `format_benchmark_log`, as for all that follow.
        cache_size: Bytes.
        hidden_size: Bytes.
        gpu_peak_mem: Bytes.
        prefill_latency: Seconds.
        prefill_throughput: Tokens per second.
        decode_latency: Seconds, or None.
        decode_throughput: Tokens per second, or None.
        total_latency: Seconds.
        total_throughput: Tokens per second.

    Returns:
        The record, without the newline.

    Raises:
        SpecError: A value is not a number; the file is not touched.
        OutputError: The file cannot be written; what it held before is unchanged.
    """
    record = format_benchmark_log(
        model_size,
        cache_size,
        hidden_size,
        gpu_peak_mem,
        prefill_latency,
        prefill_throughput,
        decode_latency,
        decode_throughput,
        total_latency,
        total_throughput,
    )
    try:
        _append(filename, f"{record}\n".encode())
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise OutputError(f"cannot append to the benchmark log {os.fspath(filename)!r}: {reason}") from error
    return record


def _append(path: str | os.PathLike[str], data: bytes) -> None:
    """Append `data` with a single write, or leave the file as it was and raise OSError."""
    # O_BINARY exists on Windows only, where a newline would become two bytes without it.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        _lock(descriptor)
        size_before = os.fstat(descriptor).st_size
        whole = os.write(descriptor, data) == len(data)
        if not whole:
            # A pipe cannot be cut back; what it has taken is gone.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size_before)
    finally:
        os.close(descriptor)
    if not whole:
        raise OSError(errno.ENOSPC, "only a part of the record could be written; is the disk full?")


def _lock(descriptor: int) -> None:
    """Keep other writers away until the descriptor is closed, where the system can."""
    if fcntl is None:
        return
    # Some network file systems know no locks. There, and on Windows, the single write at the end has to do.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)


@dataclass(frozen=True)
class BenchmarkLogRecord:
    """One record of a benchmark log, as precise as it was printed (three decimals).

    A number is None where the log says ``nan``, as FlexGen's does when it failed to project a decode latency.
    Sizes are in GiB, which the log calls GB.

    Attributes:
        model_size_gib: Estimate of all weights.
        cache_size_gib: Estimate of the KV cache.
        hidden_size_gib: Estimate of the hidden state.
        gpu_peak_mem_gib: Allocator's peak on one GPU.
        prefill_latency_s: Time to the first token.
        prefill_throughput_tokens_per_s: Prompt tokens per second.
        decode_latency_s: Time of all later tokens.
        decode_throughput_tokens_per_s: Tokens per second while decoding.
        total_latency_s: Time of all.
        total_throughput_tokens_per_s: Generated tokens per second of the whole.
        extra: Further fields by name, as text. ``{"projected": "True"}`` is FlexGen's word for a decode
            latency that it did not measure to the end.
    """

    model_size_gib: float | None
    cache_size_gib: float | None
    hidden_size_gib: float | None
    gpu_peak_mem_gib: float | None
    prefill_latency_s: float | None
    prefill_throughput_tokens_per_s: float | None
    decode_latency_s: float | None
    decode_throughput_tokens_per_s: float | None
    total_latency_s: float | None
    total_throughput_tokens_per_s: float | None
    extra: dict[str, str] = field(default_factory=dict, hash=False)


def _label_pattern(label: str) -> str:
    # FlexGen prints "(prefill)" in places where the original prints "(p)"; and lines may have been wrapped.
    return re.escape(label).replace(r"\ ", r"\s+").replace(r"\(p\)", r"\((?:p|prefill)\)")


# Compiled when a log is read: a prediction only writes one.
_LABELS: Final = "|".join(rf"\b({_label_pattern(f.label)})\s*:" for f in _FIELDS)
_VALUE: Final = r"\s*(?P<number>\S+)\s+(?P<unit>[^\s,]+),?"
_NUMBER: Final = r"(?i:nan|-?\d+(?:\.\d*)?(?:e[+-]?\d+)?)"
_EXTRA: Final = r"\s*(?P<name>[A-Za-z][\w ]*?)\s*:\s*(?P<value>\S+)(?:\s+|$)"
_RANK: Final = r"\s*rank #\d+:\s*"  # before each line that a rank of distributed FlexGen prints
# FlexGen also prints its three sizes when it starts, with commas between. That is no record.
_ANNOUNCEMENT: Final = (
    r",\s+".join(rf"{_label_pattern(f.label)}\s*:\s*\S+\s+{f.unit}" for f in _FIELDS[:3])
    + rf"(?!,?\s*{_label_pattern(_FIELDS[3].label)})"
)


class _Found(NamedTuple):
    """A label in the text, and the text up to the next label."""

    field_index: int
    line: int
    rest: str


def parse_benchmark_log(text: str) -> list[BenchmarkLogRecord]:
    r"""Read every record of a benchmark log, or of what a terminal showed of a run.

    Understood are the logs of DeepSpeedExamples, of llm-perf and of FlexGen: tabs or spaces between fields,
    lines wrapped at spaces, ``hidden size (p)`` or ``(prefill)``, further fields as ``projected: False``, and
    any output before, between and after records.

    Args:
        text: The log. Blank text has no records.

    Returns:
        The records in their order.

    Raises:
        SpecError: A record is malformed or incomplete, or there is text but no record; the message names the
            line and the field.
    """
    if not text.strip():
        return []
    found = list(_find_labels(re.sub(_ANNOUNCEMENT, _blank, text)))
    if not found:
        raise SpecError("benchmark log, line 1: expected 'model size: ... GB', which is nowhere in the text")
    step = len(_FIELDS)
    return [_read_record(found[start : start + step]) for start in range(0, len(found), step)]


def _blank(match: re.Match[str]) -> str:
    """Return as many lines as were matched, with nothing on them, so that line numbers stay right."""
    return "\n" * match.group().count("\n")


def _find_labels(text: str) -> Iterator[_Found]:
    matches = list(re.finditer(_LABELS, text))
    starts = [match.start() for match in matches] + [len(text)]
    line, counted = 1, 0
    for match, end in zip(matches, starts[1:], strict=True):
        line, counted = line + text.count("\n", counted, match.start()), match.start()
        assert match.lastindex is not None  # one group per field, and one of them matched
        yield _Found(match.lastindex - 1, line, text[match.end() : end])


def _read_record(found: list[_Found]) -> BenchmarkLogRecord:
    numbers: dict[str, float | None] = {}
    extra: dict[str, str] = {}
    for index, log_field in enumerate(_FIELDS):
        item = _expect(found, index)
        numbers[log_field.attribute], rest = _read_value(log_field, item)
        # Behind the last field comes whatever the program printed next.
        if index < len(_FIELDS) - 1:
            extra |= _read_extra(log_field, rest, item.line)
    return BenchmarkLogRecord(**numbers, extra=extra)


def _expect(found: list[_Found], index: int) -> _Found:
    expected = _FIELDS[index].label
    if index >= len(found):
        raise SpecError(f"benchmark log, line {found[-1].line}: the record ends before {expected!r}")
    item = found[index]
    if item.field_index != index:
        label = _FIELDS[item.field_index].label
        raise SpecError(f"benchmark log, line {item.line}: expected {expected!r}, found {label!r}")
    return item


def _read_value(log_field: _LogField, item: _Found) -> tuple[float | None, str]:
    """Return the number of a field and the text behind its unit."""
    match = re.match(_VALUE, item.rest)
    accepted = f"expected a number of at least 0, or nan, and the unit {log_field.unit}"
    where = f"benchmark log, line {item.line}: {log_field.label}"
    if match is None or match["unit"] != log_field.unit or not re.fullmatch(_NUMBER, match["number"]):
        shown = " ".join(item.rest.split()[:2])
        raise SpecError(f"{where}: {shown!r}: {accepted}")
    number = float(match["number"])
    if number < 0 or math.isinf(number):
        raise SpecError(f"{where}: {match['number']!r}: {accepted}")
    # Adding zero turns -0.0, the print of a tiny negative difference, into 0.0.
    return (None if math.isnan(number) else number + 0.0), item.rest[match.end() :]


def _read_extra(log_field: _LogField, rest: str, line: int) -> dict[str, str]:
    """Read the fields of other programs that stand between two of ours."""
    rest = re.sub(_RANK, " ", rest)
    extra: dict[str, str] = {}
    position = 0
    while rest[position:].strip():
        match = re.compile(_EXTRA).match(rest, position)
        if match is None:
            shown = rest[position:].split()[0]
            raise SpecError(f"benchmark log, line {line}: {shown!r} after {log_field.label!r} is no field")
        extra[match["name"]] = match["value"]
        position = match.end()
    return extra
