"""The points of a sweep in a file: Parquet, CSV or JSON, through pyarrow, which is loaded only here.

Chunks are kept in a folder beside the file until all are there, each written whole or not at all: an interrupted sweep
loses no finished chunk, and the same command goes on from there.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from llm_perf import __version__
from llm_perf.config import files
from llm_perf.config.base import Spec
from llm_perf.config.loading import get_gpu_config_by_name, get_host_config_by_name, get_model_config_by_name
from llm_perf.config.profiles import load_profile
from llm_perf.errors import MissingExtraError, OutputError, SpecError
from llm_perf.report.csv_cells import FORMULA
from llm_perf.search.checks import NUMERIC
from llm_perf.search.summary import Summary
from llm_perf.search.sweep import MEASURES, Array, Coded, Sweep

FORMATS: Final = (".parquet", ".csv", ".json")
SCHEMA_VERSION: Final = 1
_MANIFEST: Final = "sweep.json"
_LOCK: Final = "lock"
_LOADERS: Final[Mapping[str, Callable[[str], Spec]]] = {
    "model": get_model_config_by_name,
    "draft_model": get_model_config_by_name,
    "gpu": partial(get_gpu_config_by_name, or_none=True),
    "host": get_host_config_by_name,
    "profile": load_profile,
}


def check_out(file: str) -> None:
    """Refuse a file that cannot be written before anything is evaluated.

    Raises:
        SpecError: another ending.
        MissingExtraError: pyarrow is not installed.
        OutputError: there is no such folder, or the name is a folder's.
    """
    path = Path(file)
    try:
        folder, below = path.is_dir(), path.parent.is_dir()
    except OSError as error:  # a name that is too long
        raise OutputError(f"--out {file!r}: {error.strerror}") from None
    if path.suffix.lower() not in FORMATS or not path.stem:
        raise SpecError(f"--out {file!r}: the name must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    try:
        import pyarrow  # noqa: F401 - is it there?
    except ImportError:
        raise MissingExtraError("explore", "writing a sweep into a file") from None
    if not below:
        raise OutputError(f"--out {file!r}: there is no folder {str(path.parent)!r}")
    if folder:
        raise OutputError(f"--out {file!r} is a folder")
    try:
        file.encode()
    except UnicodeEncodeError:  # bytes that are none of this locale: Arrow opens names of UTF-8 alone
        raise SpecError(
            f"--out {file!r}: the name is no text in this locale, which LC_ALL=C.UTF-8 changes"
        ) from None
    with _writing(path):
        files.check_replaceable(files.behind_links(path))


class Parts:
    """The finished chunks of a sweep in a folder beside the file that they become.

    Raises:
        SpecError: the folder holds another sweep, one of other specs or of another version of llm-perf, or something else.
        OutputError: the folder cannot be made or written.
    """

    def __init__(self, sweep: Sweep, out: Path, *, restart: bool = False) -> None:
        self.sweep, self.out = sweep, files.behind_links(out)
        self._write = _WRITERS[out.suffix.lower()]  # a link may lead to a name of any kind
        self.folder = self.out.with_name(f"{self.out.name}.partial")
        with _writing(out):
            self.folder.mkdir(exist_ok=True)
            if not (self.folder / _MANIFEST).exists() and not {
                file.name for file in self.folder.iterdir()
            } <= {_LOCK}:
                raise SpecError(f"{self.folder} is in the way: it holds files that are no unfinished sweep")
            self._lock = _locked(self.folder, out)
            for file in self.folder.iterdir():
                if file.is_file() and file.name != _LOCK and (restart or file.suffix == ".part"):
                    file.unlink()
            for file in self.out.parent.glob(f"{glob.escape(self.out.name)}.*.part"):
                file.unlink()  # of a sweep that was killed while it wrote the file
            try:
                self._claim()
            except SpecError:
                self.close()
                raise

    def _claim(self) -> None:
        manifest = self.folder / _MANIFEST
        wanted = {"llm_perf": __version__, "points": len(self.sweep), "digest": digest(self.sweep)}
        if not manifest.exists():
            _replace(manifest, json.dumps(wanted).encode())
            return
        try:
            found = json.loads(manifest.read_text("utf-8"))
        except (ValueError, RecursionError):
            found = None
        if found != wanted:
            raise SpecError(
                f"{self.folder} holds an unfinished sweep of other inputs, of specs that have changed, or of another "
                "version; finish that one, or pass --restart to throw it away"
            )

    def close(self) -> None:
        """Let another sweep into the folder."""
        if self._lock is not None:
            self._lock.close()

    def _part(self, chunk: int) -> Path:
        return self.folder / f"chunk-{chunk:08d}.arrow"

    def missing(self) -> Iterator[int]:
        """Numbers of the chunks that are not there yet, as a whole."""
        done = {path.name for path in self.folder.iterdir()}
        for chunk in range(self.sweep.chunks):
            if self._part(chunk).name not in done or not self._is_whole(chunk):
                yield chunk

    def _is_whole(self, chunk: int) -> bool:
        """Whether a chunk's file has all its points: after a power cut it can be there and be cut short or empty."""
        import pyarrow as pa

        first, end = self.sweep.chunk_range(chunk)
        try:
            content = memoryview(self._part(chunk).read_bytes())
            if content[-_SEAL_BYTES:] != _seal(chunk, content[:-_SEAL_BYTES]):
                return False
            found = self._read(chunk)
        except (pa.ArrowException, OSError):
            return False
        return bool(found.num_rows == end - first and found.schema.equals(schema_of(self.sweep)))

    def _read(self, chunk: int) -> Any:
        """The table of a chunk, from the disk as far as it is looked at."""
        import pyarrow as pa

        whole = pa.memory_map(str(self._part(chunk))).read_buffer()
        return pa.ipc.open_file(pa.BufferReader(whole.slice(0, whole.size - _SEAL_BYTES))).read_all()

    def add(self, chunk: int, columns: Mapping[str, Array | Coded]) -> None:
        """Keep a finished chunk."""
        import pyarrow as pa

        table = table_of(self.sweep, columns)
        buffer = pa.BufferOutputStream()
        with pa.ipc.new_file(buffer, table.schema) as writer:
            writer.write_table(table)
        with _writing(self.out):
            content = buffer.getvalue()
            _replace(self._part(chunk), content, _seal(chunk, memoryview(content)))

    def count(self, chunk: int, summary: Summary) -> None:
        """Count a chunk that an earlier start of the sweep has finished."""
        import pyarrow.compute as pc

        table = self._read(chunk)
        reasons = pc.value_counts(table["reason"].combine_chunks().dictionary_decode()).to_pylist()
        summary.count(
            chunk,
            table["feasible"].to_numpy(),
            {entry["values"]: entry["counts"] for entry in reasons if entry["values"] is not None},
            table[summary.by].to_numpy(),
            lambda position: dict(table.slice(position, 1).to_pylist()[0]),
        )

    def finish(self) -> None:
        """Turn the chunks, in the order of their points, into the file, and remove their folder."""
        part = self.out.with_name(f"{self.out.name}.{os.getpid()}.part")
        with _writing(self.out):
            try:
                self._write(self._tables(), self.sweep, part)
                part.replace(self.out)
            finally:
                part.unlink(missing_ok=True)
            shutil.rmtree(self.folder)
        self.close()

    def _tables(self) -> Iterator[Any]:
        return map(self._read, range(self.sweep.chunks))


def digest(sweep: Sweep) -> str:
    """Tells sweeps apart, by their inputs and by what the specs say that these name."""
    written = repr((dict(sweep.axes), sweep.listed, sweep.chunk_points, MEASURES, list(_specs(sweep))))
    return hashlib.sha256(written.encode()).hexdigest()


def _specs(sweep: Sweep) -> Iterator[str]:
    """Every spec that is named, in full: a file may have been edited since."""
    for name, load in _LOADERS.items():
        for value in dict.fromkeys(_values(sweep, name)):
            with contextlib.suppress(
                SpecError
            ):  # a device that only a profile describes; the profile is here
                yield "" if value is None else load(value).model_dump_json()


_SEAL_BYTES: Final = 32


def _seal(chunk: int, content: memoryview) -> bytes:
    """What a chunk's file ends with: neither another chunk's content nor a changed one fits it."""
    return hashlib.blake2b(content, digest_size=_SEAL_BYTES, salt=chunk.to_bytes(8, "little")).digest()


def _locked(folder: Path, out: Path) -> Any:
    """An open file that no other sweep into the same file can have; it is let go when its process ends, however.

    Raises:
        OutputError: another sweep is writing there.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    lock = (folder / _LOCK).open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise OutputError(f"--out '{out}': another sweep is writing it") from None
    return lock


def _replace(path: Path, *content: Any) -> None:
    """Write a file as a whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            for piece in content:
                file.write(piece)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class _writing:  # noqa: N801 - used like a function
    """Turns failures of the file system into one line."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            raise OutputError(f"--out '{self.out}': {error.strerror or error}") from None


# -- tables -----------------------------------------------------------------------------------------------------


def table_of(sweep: Sweep, columns: Mapping[str, Array | Coded]) -> Any:
    """An Arrow table of a chunk. Text is dictionary-encoded; what does not exist is null."""
    import pyarrow as pa

    schema = schema_of(sweep)
    return pa.table(
        {name: _array(columns[name], schema.field(name).type) for name in schema.names}, schema=schema
    )


def schema_of(sweep: Sweep) -> Any:
    """Types of the columns, which depend on the inputs' values alone and so are the same for all chunks."""
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    types: dict[str, Any] = {name: pa.float64() for name in MEASURES}
    types |= {name: pa.int64() for name in NUMERIC} | {"feasible": pa.bool_(), "reason": text}
    for name in sweep.columns:
        types.setdefault(name, _type_of([value for value in _values(sweep, name) if value is not None], text))
    metadata = {"llm_perf": __version__, "units": "seconds, bytes and tokens per second, as the names say"}
    return pa.schema([pa.field(name, types[name]) for name in sweep.columns], metadata=metadata)


def _values(sweep: Sweep, name: str) -> list[Any]:
    return [*sweep.axes.get(name, ()), *(point[name] for point in sweep.listed if name in point)]


def _type_of(values: list[Any], text: Any) -> Any:
    import pyarrow as pa

    if values and all(isinstance(value, bool) for value in values):
        return pa.bool_()
    if values and all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return pa.int64()
    if values and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return pa.float64()
    return text


def _array(column: Array | Coded, kind: Any) -> Any:
    import pyarrow as pa

    if not isinstance(column, Coded):
        mask = np.isnan(column) if column.dtype.kind == "f" else None
        return pa.array(column, type=kind, mask=mask)
    indices = pa.array(column.codes, mask=column.codes < 0)
    if pa.types.is_dictionary(kind):
        values = pa.array([str(value) for value in column.values], type=pa.string())
        return pa.DictionaryArray.from_arrays(indices, values)
    return pa.array(list(column.values), type=kind).take(indices)


def _write_parquet(tables: Iterator[Any], sweep: Sweep, part: Path) -> None:
    import pyarrow.parquet as pq

    texts = [field.name for field in schema_of(sweep) if str(field.type).startswith("dictionary")]
    with pq.ParquetWriter(
        part, schema_of(sweep), use_dictionary=[*texts, *NUMERIC], compression="lz4"
    ) as writer:
        for table in tables:
            writer.write_table(table)


def _write_csv(tables: Iterator[Any], sweep: Sweep, part: Path) -> None:
    from pyarrow import csv

    schema = plain_schema(schema_of(sweep))
    with csv.CSVWriter(part, schema) as writer:
        for table in tables:
            writer.write_table(_as_text(table.cast(schema)))


def _as_text(table: Any) -> Any:
    """The table with a ' before every text that a spreadsheet would take for a formula."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for position, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            column = table.column(position)
            quoted = pc.binary_join_element_wise(pa.scalar("'"), column, pa.scalar(""))
            formula = pc.match_substring_regex(column, FORMULA)
            table = table.set_column(position, field, pc.if_else(formula, quoted, column))
    return table


def _write_json(tables: Iterator[Any], sweep: Sweep, part: Path) -> None:
    """One object with all points; written chunk by chunk."""
    with part.open("w", encoding="utf-8") as file:
        file.write(
            f'{{"schema_version": {SCHEMA_VERSION}, "columns": {json.dumps(sweep.columns)}, "points": ['
        )
        separator = "\n"
        for table in tables:
            for point in table.to_pylist():
                file.write(separator + json.dumps(point, allow_nan=False))
                separator = ",\n"
        file.write("\n]}\n")


def plain_schema(schema: Any) -> Any:
    """The schema without dictionaries, which CSV does not have."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field(field.name, field.type.value_type) if pa.types.is_dictionary(field.type) else field
            for field in schema
        ]
    )


_WRITERS: Final = {".parquet": _write_parquet, ".csv": _write_csv, ".json": _write_json}
