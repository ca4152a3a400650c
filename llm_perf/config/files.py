"""Reading a spec from a YAML or JSON file, with file, line and field when something is wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import select
import stat
from collections.abc import Hashable
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import yaml
from pydantic import ValidationError

from llm_perf.config.base import Spec, describe_validation_error, plain_words
from llm_perf.errors import EnvironmentFailure, SpecError

_PLAIN_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Repeated(Exception):  # noqa: N818 - caught here alone
    """A key stands twice in a mapping."""


class _Loader(_PLAIN_LOADER):  # type: ignore[misc]  # which of the two it is shows at run time
    """YAML as it should be read: PyYAML takes the last of several equal keys without a word.

    PyYAML builds every value through generators, for tags that nobody here writes, which takes most of the time of a
    small file and a fifth of a plan over all GPUs. Mappings and lists are walked here; scalars are PyYAML's own.
    """

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        return None if node is None else self._built(node, {})

    def _built(self, node: Any, known: dict[int, Any]) -> Any:
        tag = node.tag
        found: Any
        if tag == _TEXT_TAG and isinstance(node, yaml.ScalarNode):
            return node.value
        if id(node) in known:  # written once, and meant again by its anchor
            if known[id(node)] is _UNFINISHED:
                raise yaml.constructor.ConstructorError(
                    None, None, "a value contains itself", node.start_mark
                )
            return known[id(node)]
        if tag == "tag:yaml.org,2002:map" and isinstance(node, yaml.MappingNode):
            known[id(node)] = _UNFINISHED
            found = self._mapping(node, known)
        elif tag == "tag:yaml.org,2002:seq" and isinstance(node, yaml.SequenceNode):
            known[id(node)] = _UNFINISHED
            found = [self._built(one, known) for one in node.value]
        else:
            found = self._by_tag(node)
        known[id(node)] = found
        return found

    def _by_tag(self, node: Any) -> Any:
        try:
            return self.construct_object(node, deep=True)
        except KeyError:  # PyYAML looks words of !!bool up in a table
            problem = f"{str(node.value)[:40]!r} is no value of {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def _mapping(self, node: Any, known: dict[int, Any]) -> dict[Any, Any]:
        own = list(node.value)
        if any(key.tag == _MERGE_TAG for key, _ in own):
            self.flatten_mapping(node)
        found = {}
        for key_node, value_node in node.value:
            key = self._built(key_node, known)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, "found unhashable key", key_node.start_mark
                )
            found[key] = self._built(value_node, known)
        if len(found) < len(node.value):
            self._refuse_repeated(own)
        return found

    def _refuse_repeated(self, own: list[tuple[Any, Any]]) -> None:
        """What a mapping says itself stands there once; it may say anew what it merged."""
        lines: dict[str, int] = {}
        for key, _ in own:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE_TAG:
                continue
            if key.value in lines:
                raise _Repeated(f":{line}: {key.value!r} stands twice, here and in line {lines[key.value]}")
            lines[key.value] = line


_TEXT_TAG, _MERGE_TAG = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_UNFINISHED = object()


# YAML 1.1 takes 1e-3 for text, since it has no point; people and JSON write numbers so.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)

S = TypeVar("S", bound=Spec)

SUFFIXES = (".yaml", ".yml", ".json")


def package_folder(package: str) -> Path:
    """Where a package lies whose data files ship with it, in a folder: pip unpacks what it installs.

    `importlib.resources` says the same, and loads what reads archives, a twenty-fifth of a prediction's time.

    Raises:
        EnvironmentFailure: it lies in an archive, such as a wheel that was put on the path as it is.
    """
    folder = Path(import_module(package).__path__[0])
    if not folder.is_dir():
        raise EnvironmentFailure(
            f"{folder} is no folder: llm-perf reads its data from files; install the wheel (pip install FILE) instead of "
            "running it packed"
        )
    return folder


def looks_like_path(name: str) -> bool:
    """Whether a name is meant as a file: it has a spec file's suffix, or starts like a path."""
    return name.lower().endswith(SUFFIXES) or name.startswith(("./", "../", "/", "~"))


def is_file(path: Path) -> bool:
    """Whether there is such a file. A name that no file can have, being too long for one, is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def expanded(name: str | Path) -> Path:
    """The path of a name, ``~`` and ``~user`` filled in.

    Raises:
        SpecError: there is no such user.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise SpecError(f"{name}: {error}") from None


def behind_links(path: Path) -> Path:
    """The file that a name stands for: replacing a symbolic link would leave its target as it was."""
    try:
        return Path(os.path.realpath(path)) if path.is_symlink() else path
    except (OSError, ValueError):
        return path


def check_replaceable(target: Path) -> None:
    """Refuse what a new file would put out of the way for good: a device such as /dev/stdout, a pipe, a folder.

    Raises:
        OSError: it is one.
    """
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, f"{target.name} is no ordinary file")


def open_regular(path: Path) -> BinaryIO:
    """A file opened for reading, if it is a plain one: reading a pipe or a device might never end.

    Raises:
        SpecError: there is none, or it is something else.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SpecError(f"{path}: is no plain file")
    return os.fdopen(descriptor, "rb")


def read_text(path: Path) -> str:
    """The text of a file, or of a pipe that is written to.

    Raises:
        SpecError: it cannot be read, is no text, or is longer than any spec.
    """
    try:
        with _open_text(path) as file:
            content = file.read(_LARGEST_TEXT + 1)
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise SpecError(f"{path}: is not a text file") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror or error}") from None
    except SpecError:
        raise
    except ValueError as error:  # a null byte in the name
        raise SpecError(f"{str(path)!r}: is no file name: {error}") from None
    if len(content) > _LARGEST_TEXT:
        raise SpecError(f"{path}: is larger than {_LARGEST_TEXT // 10**6} MB, which no spec is")
    return text


_LARGEST_TEXT = 100_000_000


def _open_text(path: Path) -> BinaryIO:
    """A plain file, or a pipe: of one that nobody writes to nothing is read, where waiting might never end."""
    if not path.is_fifo():
        return open_regular(path) if path.exists() else path.open("rb")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    os.set_blocking(descriptor, True)
    if not select.select([descriptor], [], [], _PIPE_S)[0]:
        os.close(descriptor)
        raise SpecError(f"{path}: is a pipe, and nothing was written to it within {_PIPE_S:g} s")
    return os.fdopen(descriptor, "rb")


_PIPE_S = 2.0


def parse_mapping(text: str, where: str, is_table: bool = False) -> dict[str, Any]:
    """Parse YAML, or JSON where ``where`` ends in .json, into a mapping.

    A table, such as the points of a sweep, may be as long as any text; a spec may not.

    Raises:
        SpecError: with file and line, if the text is malformed or is no mapping.
    """
    is_json = where.lower().endswith(".json")
    if not is_table and len(text) > (_LARGEST_JSON if is_json else _LARGEST_YAML):
        size, kind = (_LARGEST_JSON, "JSON") if is_json else (_LARGEST_YAML, "YAML")
        raise SpecError(f"{where}: is larger than {size / 1e6:g} MB of {kind}, which no spec is")
    if not is_table and text.count(",") > _MOST_ENTRIES:
        raise SpecError(f"{where}: has more than {_MOST_ENTRIES:,} entries, which no spec has")
    if _too_deep(text):
        raise SpecError(f"{where}: is nested too deeply")
    try:
        data = json.loads(text, object_pairs_hook=_once) if is_json else yaml.load(text, Loader=_Loader)
    except _Repeated as error:
        raise SpecError(f"{where}{_with_lines(text, str(error)) if is_json else error}") from None
    except json.JSONDecodeError as error:
        raise SpecError(f"{where}:{error.lineno}: malformed JSON: {error.msg}") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SpecError(f"{where}{line}: malformed YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{where}: malformed YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise SpecError(f"{where}: is nested too deeply") from None
    except ValueError as error:  # a date that is none, a number of thousands of digits
        raise SpecError(f"{where}: has a value that cannot be: {error}") from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise SpecError(f"{where}:1: expected a mapping of fields, found {found}")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose keys are different."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Repeated(next(name for name in names if names.count(name) > 1))
    return found


def _with_lines(text: str, name: str) -> str:
    """What to say of a key that stands twice in one JSON object: its lines, found by reading the text as YAML."""
    if len(text) <= _LARGEST_YAML:
        try:
            yaml.load(text, Loader=_Loader)
        except _Repeated as error:
            return str(error)
        except yaml.YAMLError:
            pass  # JSON that is no YAML, such as one with tabs
    return f":1: {name!r} stands twice in one object"


_LARGEST_YAML, _LARGEST_JSON = 250_000, 32_000_000
"""Characters: what is parsed within a second. The longest index of a released checkpoint has 9 million, and is JSON."""
_MOST_ENTRIES, _MOST_FIELDS = 500_000, 50_000
"""Commas of a text, and colons of one that is a spec: counted before either is parsed or validated. Lists of the modules of a
checkpoint with hundreds of experts have some 200,000 entries, and no spec has fields for them."""


def _too_deep(text: str) -> bool:
    """Whether brackets, or dashes and the like on one line, open so many levels that a parser in C runs out of stack."""
    if _DASHES.search(text):
        return True
    if text.count("[") + text.count("{") <= _DEEPEST:
        return False
    depth = 0
    for found in _BRACKETS.finditer(text):
        depth += 1 if found[0] in "[{" else -1
        if depth > _DEEPEST:
            return True
        depth = max(depth, 0)
    return False


_DEEPEST = 200
_BRACKETS = re.compile(r"[\[\]{}]")
_DASHES = re.compile(rf"(?:[-?:] +){{{_DEEPEST}}}")


def build(spec: type[S], data: dict[str, Any], text: str, where: str, under: tuple[str | int, ...] = ()) -> S:
    """Validate a mapping read from ``where``; a fault names file, line and field.

    Args:
        spec: What the mapping describes.
        data: The mapping.
        text: The file's text, to find lines in.
        where: The file's name, for messages.
        under: Keys under which the mapping stands in the file.

    Raises:
        SpecError: the first fault.
    """
    if not all(isinstance(key, str) for key in data):
        raise SpecError(f"{where}:1: field names must be text")
    if not under and text.count(":") > _MOST_FIELDS:
        raise SpecError(
            f"{where}: has more than {_MOST_FIELDS:,} fields, which no {spec.label() or 'spec'} has"
        )
    try:
        return spec.model_validate(data)
    except ValidationError as error:
        location, fault = _innermost(error)
        own = fault.title == spec.__name__
        label = spec.label() if own else plain_words(fault.title)
        message = describe_validation_error(fault, label, data.get("name") if own else None)
        raise SpecError(f"{where}:{line_of(text, under + location)}: {message}") from None
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def _innermost(error: ValidationError) -> tuple[tuple[Any, ...], ValidationError]:
    """Where the first fault is, and the error of the spec that it is in.

    A nested spec reports a SpecError of its own, which pydantic takes for a fault of the whole nested spec;
    what it was made of, and so the field, is the SpecError's context.
    """
    first = error.errors(include_url=False)[0]
    raised = first.get("ctx", {}).get("error")
    cause = raised.__context__ if isinstance(raised, SpecError) else None
    if not isinstance(cause, ValidationError):
        return first["loc"], error
    location, fault = _innermost(cause)
    return first["loc"] + location, fault


def line_of(text: str, location: tuple[Any, ...]) -> int:
    """Line of the node of a YAML or JSON text that a path of keys names, or of the nearest node above it."""
    if len(text) > _LONG_TEXT:
        return _line_by_words(text, location)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return 1
    line = 1
    for part in location:
        child = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, child = key.start_mark.line + 1, value
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            child = node.value[part]
            line = child.start_mark.line + 1
        if child is None:
            continue  # a discriminator's tag is part of the location but no node
        node = child
    return line


_LONG_TEXT = 300_000
"""Characters beyond which a text is not parsed again for the place of a fault: that would take seconds."""


def _line_by_words(text: str, location: tuple[Any, ...]) -> int:
    """Line where the keys of a path follow each other in a text, each sought after the one before it."""
    at = 0
    for part in location:
        found = re.compile(rf"(?<![\w.-])[\"']?{re.escape(str(part))}[\"']?\s*:").search(text, at)
        if isinstance(part, str) and found is not None:
            at = found.start()
    return text.count("\n", 0, at) + 1
