"""Values of a sweep that no prediction could take: bad input, where a combination that cannot be is a point with a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from llm_perf.analysis.request import InferenceInputs
from llm_perf.config.economics import load_prices
from llm_perf.config.formats import KV_FORMATS, WEIGHT_FORMATS, format_name
from llm_perf.config.loading import get_gpu_config_by_name, get_host_config_by_name, get_model_config_by_name
from llm_perf.config.parallelism import DSZeRO
from llm_perf.config.profiles import load_profile
from llm_perf.errors import SpecError
from llm_perf.systems import resolve_system
from llm_perf.systems.registry import family_of

NUMERIC: Final = ("batch_size", "prompt_len", "gen_len")
"""Inputs that are evaluated as arrays, the last one running fastest."""

LARGEST: Final = 10**12
"""The largest batch or length, as for a single prediction; arrays of numbers hold it exactly."""

_ANY: Final = {"model": "any", "gpu": "any"}


def check_values(axes: Mapping[str, Sequence[Any]], listed: Sequence[Mapping[str, Any]]) -> None:
    """Refuse values that are wrong by themselves, whatever they are combined with, and names of nothing.

    Raises:
        SpecError: a value of the wrong kind or out of range, or a name that is unknown or ambiguous.
    """
    for name in NUMERIC:
        _check_sizes(name, [*axes.get(name, ()), *(point.get(name) for point in listed)])
    for name, values in axes.items():
        for value in values if name not in NUMERIC else ():
            _check_point({name: value})
    for point in listed:
        _check_point({name: value for name, value in point.items() if name not in NUMERIC})
    _check_names(lambda name: _distinct([*axes.get(name, ()), *(point.get(name) for point in listed)]))


def _check_sizes(name: str, values: Sequence[Any]) -> None:
    if set(map(type, values)) == {int} and min(values) >= 1 and max(values) <= LARGEST:
        return  # millions of values, at the speed of C
    for value in values:
        whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1
        if value is not None and not (whole and 1 <= value <= LARGEST):
            raise SpecError(f"{name} must be a positive integer of at most {LARGEST:,}, got {value!r:.40}")


def _check_point(inputs: Mapping[str, Any]) -> None:
    """None stands for the default everywhere."""
    InferenceInputs(**(_ANY | {name: value for name, value in inputs.items() if value is not None}))


def _distinct(values: Iterable[Any]) -> list[Any]:
    return [value for value in dict.fromkeys(values) if value is not None]


def _check_names(values_of: Callable[[str], list[Any]]) -> None:
    """Load what is named."""
    for name in (*values_of("model"), *values_of("draft_model")):
        get_model_config_by_name(name)
    profiles = [load_profile(name) for name in values_of("profile") or [None]]
    for name in values_of("gpu"):
        if all(profile.own_gpu(name) is None for profile in profiles):
            get_gpu_config_by_name(name, or_none=True)
    if not values_of("profile"):  # a profile may bring its own host
        for name in values_of("host"):
            get_host_config_by_name(name)
    for name in values_of("system"):
        resolve_system(name, DSZeRO.NONE)
    for field, known in (("weight_format", WEIGHT_FORMATS), ("kv_format", tuple(KV_FORMATS))):
        for name in values_of(field):
            meant = field == "weight_format" and any(
                family_of(system).meant_format(name) for system in values_of("system")
            )
            if not meant and name.strip().lower() != "auto":
                format_name(name, known, field)
    for name in values_of("prices"):
        load_prices(name)
