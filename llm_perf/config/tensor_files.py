"""Headers of safetensors and GGUF files: names, shapes and types of tensors, never their content."""

from __future__ import annotations

import json
import os
import re
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from llm_perf.config.files import open_regular
from llm_perf.config.formats import GGML_BLOCKS
from llm_perf.errors import SpecError

_LARGEST_HEADER = 100_000_000
"""Bytes; the safetensors library's own limit."""
_MOST_TENSORS = 1_000_000
_MOST_KEYS = 100_000
_LONGEST_STRING = 10_000_000
_LONGEST_ARRAY = 50_000_000
_KEPT_ARRAY = 10_000
_MOST_DIMENSIONS = 8
_MOST_SIDES = 64


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file: its shape as the file gives it, its type, and its bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: float

    @property
    def elements(self) -> int:
        """Elements of the tensor."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class TensorFile:
    """What a header says. ``keys`` are the metadata of a GGUF file, long arrays left out."""

    tensors: tuple[StoredTensor, ...]
    keys: dict[str, Any]

    @property
    def size_bytes(self) -> float:
        """Bytes of all tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)


# -- safetensors ------------------------------------------------------------------------------------------


def read_safetensors(path: Path) -> TensorFile:
    """The header of a safetensors file: its length in 8 bytes, then JSON (github.com/huggingface/safetensors, Format).

    Raises:
        SpecError: the file cannot be read, is cut off, or is none.
    """
    with open_regular(path) as file:
        start = file.read(8)
        if len(start) < 8:
            raise SpecError(f"{path}: is too short for a safetensors file")
        (length,) = struct.unpack("<Q", start)
        if not 2 <= length <= _LARGEST_HEADER:
            raise SpecError(f"{path}: is no safetensors file (a header of {length} bytes)")
        text = file.read(length)
        size = os.fstat(file.fileno()).st_size
    if len(text) < length:
        raise SpecError(f"{path}: is cut off in its header, after {len(text)} of {length} bytes")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise SpecError(f"{path}: is no safetensors file: its header is no JSON") from None
    if not isinstance(header, dict):
        raise SpecError(f"{path}: is no safetensors file: its header is no mapping")
    header.pop("__metadata__", None)
    tensors = tuple(_safetensor(path, name, entry) for name, entry in header.items())
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size < end:
        raise SpecError(f"{path}: is cut off: {size} bytes of {end}")
    return TensorFile(tensors, {})


def _safetensor(path: Path, name: str, entry: Any) -> StoredTensor:
    fields = entry if isinstance(entry, dict) else {}
    shape, offsets, dtype = (
        _sizes(fields.get("shape")),
        _sizes(fields.get("data_offsets")),
        fields.get("dtype"),
    )
    if shape is None or offsets is None or len(offsets) != 2 or not isinstance(dtype, str):
        raise SpecError(f"{path}: tensor {name[:80]!r} has no dtype, shape and data_offsets that can be")
    if offsets[0] > offsets[1]:
        raise SpecError(f"{path}: tensor {name[:80]!r} ends at {offsets[1]}, before it begins")
    return StoredTensor(name, shape, dtype, float(offsets[1] - offsets[0]))


def _sizes(value: Any) -> tuple[int, ...] | None:
    """A short list of sizes, or None where it is something else."""
    if not isinstance(value, list) or len(value) > _MOST_SIDES:
        return None
    return tuple(value) if all(type(size) is int and 0 <= size < 2**62 for size in value) else None


def checkpoint_size_bytes(folder: Path) -> int | None:
    """Bytes of the tensors of the checkpoint in a folder: as its index says, or its only file's header; None if neither.

    An index or header that cannot be read is taken as absent: the size is compared with, not counted from.
    """
    index = folder / "model.safetensors.index.json"
    try:
        with open_regular(index) as file:
            found = json.loads(file.read(_LARGEST_HEADER))
        total = found["metadata"]["total_size"]
        return int(total) if isinstance(total, (int, float)) and 0 < total < 2**62 else None
    except (SpecError, ValueError, RecursionError, KeyError, TypeError):
        pass
    try:
        return int(read_safetensors(folder / "model.safetensors").size_bytes) or None
    except SpecError:
        return None


# -- GGUF -------------------------------------------------------------------------------------------------

_GGML_TYPES = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 9: "q8_1", 10: "q2_k", 11: "q3_k", 12: "q4_k",
    13: "q5_k", 14: "q6_k", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s", 20: "iq4_nl", 21: "iq3_s",
    22: "iq2_s", 23: "iq4_xs", 24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "f64", 29: "iq1_m", 30: "bf16", 34: "tq1_0",
    35: "tq2_0", 39: "mxfp4_gguf",
}  # fmt: skip
"""Numbers of ``ggml_type``."""
_PLAIN_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "f64": 8}
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)


class _Reader:
    """Reads numbers and strings of a GGUF header, each checked against what is left of the file."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.left = os.fstat(file.fileno()).st_size

    def fault(self, what: str) -> SpecError:
        return SpecError(f"{self.path}: is no GGUF file that can be read: {what}")

    def take(self, count: int) -> bytes:
        self.left -= count
        if self.left < 0:
            raise SpecError(f"{self.path}: is cut off in its header")
        return self.file.read(count)

    def skip(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise SpecError(f"{self.path}: is cut off in its header")
        self.file.seek(count, os.SEEK_CUR)

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def count(self, most: int, what: str) -> int:
        found = int(self.number("Q"))
        if found > most:
            raise self.fault(f"{found} {what}")
        return found

    def string(self) -> str:
        return self.take(self.count(_LONGEST_STRING, "characters in a string")).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise self.fault(f"a value of type {kind}")
        return self.number(_SCALARS[kind])

    def array(self) -> list[Any] | None:
        """An array of numbers; None for a long one or one of strings, which is passed over."""
        kind = self.number("I")
        length = self.count(_LONGEST_ARRAY, "values in an array")
        if kind == _STRING:
            for _ in range(length):
                self.skip(self.count(_LONGEST_STRING, "characters in a string"))
            return None
        if kind not in _SCALARS:
            raise self.fault(f"an array of type {kind}")
        code = f"{length}{_SCALARS[kind]}"
        if length > _KEPT_ARRAY:
            self.skip(struct.calcsize("<" + code))
            return None
        return list(struct.unpack("<" + code, self.take(struct.calcsize("<" + code))))


_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def read_gguf(path: Path) -> TensorFile:
    """The header of a GGUF file, and of its other parts where it is split (ggml docs/gguf.md).

    Raises:
        SpecError: the file or a part cannot be read, is cut off in its header, or is none.
    """
    first = _read_one(path)
    part = _PART.search(path.name)
    if part is None:
        return first
    count = int(part.group(2))
    if not 1 <= count <= 1000:
        raise SpecError(f"{path}: is a part of {count} parts")
    stem = path.name[: part.start()]
    tensors: list[StoredTensor] = []
    keys: dict[str, Any] = {}
    for number in range(1, count + 1):
        other = path.with_name(f"{stem}-{number:05d}-of-{count:05d}.gguf")
        found = first if other == path else _read_one(other)
        tensors += found.tensors
        keys = found.keys | keys
    return TensorFile(tuple(tensors), keys)


def _read_one(path: Path) -> TensorFile:
    with open_regular(path) as file:
        reader = _Reader(path, file)
        if reader.left < 24 or reader.take(4) != b"GGUF":
            raise SpecError(f"{path}: is no GGUF file")
        version = reader.number("I")
        if version not in _VERSIONS:
            raise reader.fault(f"version {version}; versions 2 and 3 are known")
        tensors, keys = reader.count(_MOST_TENSORS, "tensors"), reader.count(_MOST_KEYS, "keys")
        found: dict[str, Any] = {}
        for _ in range(keys):
            name = reader.string()
            found[name] = reader.value(reader.number("I"))
        return TensorFile(tuple(_gguf_tensor(reader) for _ in range(tensors)), found)


def _gguf_tensor(reader: _Reader) -> StoredTensor:
    name = reader.string()
    dimensions = reader.number("I")
    if not 0 <= dimensions <= _MOST_DIMENSIONS:
        raise reader.fault(f"a tensor of {dimensions} dimensions")
    shape = tuple(int(reader.number("Q")) for _ in range(dimensions))
    kind = reader.number("I")
    reader.number("Q")  # where its data begin
    if kind not in _GGML_TYPES:
        raise reader.fault(f"tensor {name[:80]!r} has type {kind}, which is not known")
    if any(not 1 <= size < 2**40 for size in shape) or prod(shape) >= 2**50:
        raise reader.fault(f"tensor {name[:80]!r} has shape {shape}")
    dtype = _GGML_TYPES[kind]
    elements, size = GGML_BLOCKS.get(dtype) or (1, _PLAIN_BYTES[dtype])
    return StoredTensor(name, shape, dtype, prod(shape) / elements * size)
