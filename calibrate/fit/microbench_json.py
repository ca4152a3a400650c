"""The JSON of `llm-perf calibrate --microbench`, checked: whatever the fit reads of it is there and can be."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from calibrate.fit.observation import needed, positive
from llm_perf.errors import SpecError

_SIZES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "gemm": ("settings.m", "settings.k", "settings.n", "work.bytes"),
        "attention_prefill": ("settings.length", "work.flops", "work.bytes"),
        "attention_decode": ("work.flops", "work.bytes"),
        "copy": ("work.bytes",),
        "host_read": ("work.bytes",),
        "transfer": ("work.bytes",),
        "disk": ("work.bytes",),
        "dequantise": ("work.weights",),
    }
)
"""Fields of a kind's items that are positive numbers, besides the median time."""

_NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "gemm": ("settings.dtype",),
        "attention_prefill": ("settings.dtype",),
        "attention_decode": ("settings.dtype",),
        "transfer": ("settings.direction",),
        "disk": ("settings.direction",),
        "layer": ("settings.system",),
    }
)
"""Fields that are text."""


def checked_microbench(record: dict[str, Any], source: str) -> dict[str, Any]:
    """The record, if a fit can use it.

    Raises:
        SpecError: a field is missing, or a value cannot be; the message names file and field.
    """
    if not isinstance(record.get("items"), list) or not record["items"]:
        raise SpecError(f"{source}: items: no microbenchmark is in it")
    if record.get("device") not in ("cpu", "cuda"):
        raise SpecError(f"{source}: device = {record.get('device')!r}: expected cpu or cuda")
    dtypes = needed(record, source, "dtypes")
    if not isinstance(dtypes, list) or not dtypes or not all(isinstance(one, str) for one in dtypes):
        raise SpecError(f"{source}: dtypes = {dtypes!r}: expected a list of number formats such as bf16")
    _check_environment(record, source)
    for number, item in enumerate(record["items"]):
        _check_item(item, f"items[{number}]", source)
    return record


def _check_environment(record: Mapping[str, Any], source: str) -> None:
    sizes = [("memory", "total_bytes"), ("disk", "total_bytes")]
    if record["device"] == "cuda":
        sizes.append(("device", "memory_bytes"))
    else:
        sizes.append(("cpu", "usable_cores"))
    for path in sizes:
        positive(
            source, ".".join(("environment", *path)), needed(record, source, "environment", *path), unit=""
        )
    for path in (("device", "kind"), ("device", "name"), ("cpu", "name")):
        _text(".".join(("environment", *path)), needed(record, source, "environment", *path), source)


def _check_item(item: Any, where: str, source: str) -> None:
    if not isinstance(item, dict):
        raise SpecError(f"{source}: {where}: expected an object, found {type(item).__name__}")
    kind = _text(f"{where}.kind", item.get("kind"), source)
    if item.get("error"):
        return  # a measurement that failed says why, and has no times
    for name in ("per_layer_s", "per_pass_s") if kind == "layer" else ("median_s",):
        positive(source, f"{where}.{name}", item.get(name), zero=kind == "layer")
    if not isinstance(item.get("settings"), dict):
        raise SpecError(
            f"{source}: {where}.settings: expected what was measured, found {item.get('settings')!r}"
        )
    for field in _SIZES.get(kind, ()):
        positive(source, f"{where}.{field}", _value(item, field), unit="")
    for field in _NAMES.get(kind, ()):
        _text(f"{where}.{field}", _value(item, field), source)


def _value(item: Mapping[str, Any], field: str) -> Any:
    part, _, name = field.partition(".")
    inside = item.get(part)
    return inside.get(name) if isinstance(inside, dict) else None


def _text(name: str, value: Any, source: str) -> str:
    if not isinstance(value, str) or not value:
        raise SpecError(f"{source}: {name} = {value!r}: expected a name")
    return value
