"""Specs as tables: one line each in a list, everything in a detailed view."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llm_perf.config.base import Spec
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig
from llm_perf.config.model import ModelConfig
from llm_perf.counts.attention import cache_elements_per_token, state_bytes
from llm_perf.counts.parameters import active_params, total_params


@dataclass(frozen=True)
class Columns:
    """Derived values of a spec, in order: JSON key, heading, how it is computed, how it is printed."""

    columns: tuple[tuple[str, str, Callable[[Any], Any], Callable[[Any], str]], ...]

    def values(self, spec: Spec) -> dict[str, Any]:
        """The derived values by their JSON keys."""
        return {key: value(spec) for key, _, value, _ in self.columns}

    def cells(self, spec: Spec) -> list[str]:
        """The derived values as text."""
        return [show(value(spec)) if value(spec) is not None else "-" for _, _, value, show in self.columns]


def _billions(params: int) -> str:
    value, unit = (params / 1e9, "B") if params >= 1e9 else (params / 1e6, "M")
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _first_word(text: str) -> str:
    return text.split()[0]


def _kv_kib(model: ModelConfig) -> float:
    """KiB of 16-bit cache per token of a short context; what does not grow with it is a state."""
    return cache_elements_per_token(model) * 2 / 1024


def _state_kib(model: ModelConfig) -> float:
    """KiB of 16-bit recurrent states per sequence."""
    return float(state_bytes(model, 1)) / 1024


MODEL_COLUMNS = Columns(
    (
        ("total_params", "params", total_params, _billions),
        ("active_params", "active", active_params, _billions),
        ("num_layers", "layers", lambda model: model.num_layers, str),
        ("max_position_embeddings", "context", lambda model: model.max_position_embeddings, str),
        ("kv_cache_kib_per_token", "KiB/tok", _kv_kib, "{:,.0f}".format),
        ("state_kib_per_sequence", "KiB state", _state_kib, "{:,.0f}".format),
    )
)
GPU_COLUMNS = Columns(
    (
        ("memory_gib", "GiB", lambda gpu: gpu.memory_gib, "{:g}".format),
        ("hbm_bandwidth_gb_per_s", "GB/s", lambda gpu: gpu.hbm_bandwidth_gb_per_s, "{:,.5g}".format),
        ("peak_16bit_tflops", "TFLOP/s", lambda gpu: gpu.peak_fp16_TFLOPS, "{:,.4g}".format),
        ("pcie", "PCIe", lambda gpu: gpu.pcie, str),
        ("default_host", "usual host", lambda gpu: gpu.default_host, str),
        ("evidence", "rates", lambda gpu: gpu.efficiency.evidence, _first_word),
    )
)
HOST_COLUMNS = Columns(
    (
        ("memory_gib", "GiB", lambda host: host.memory_gib, "{:,g}".format),
        (
            "memory_gb_per_s",
            "RAM GB/s",
            lambda host: (host.memory_bandwidth_gb_per_s_per_socket or 0) * (host.sockets or 1) or None,
            "{:,.4g}".format,
        ),
        (
            "link_gb_per_s",
            "link GB/s",
            lambda host: (host.pcie_bytes_per_s or 0) / 1e9 or None,
            "{:.4g}".format,
        ),
        (
            "disk_gib",
            "disk GiB",
            lambda host: host.disk.capacity_gib if host.disk else None,
            "{:,.6g}".format,
        ),
        (
            "disk_read_gb_per_s",
            "read GB/s",
            lambda host: host.disk.read_bytes_per_s("direct") / 1e9 if host.disk else None,
            "{:.3g}".format,
        ),
        ("gpus_per_node", "GPUs", lambda host: host.gpus_per_node, str),
    )
)


def plain(spec: Spec) -> dict[str, Any]:
    """A spec's fields as JSON types; an infinite exponent becomes text, since JSON has no infinity."""
    return _json_types(spec.model_dump(mode="json"))  # type: ignore[no-any-return]


def _json_types(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _json_types(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_types(item) for item in value]
    return "inf" if value == math.inf else value


def print_list(specs: Sequence[GPUConfig | HostConfig | ModelConfig | Spec], columns: Columns) -> None:
    """One line per spec, or two where its name is too long for 80 columns."""
    from rich.table import Table

    from llm_perf.report.inference_text import print_report

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("name", overflow="fold")
    for _, heading, _, _ in columns.columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for spec in specs:
        table.add_row(spec.name, *columns.cells(spec))  # type: ignore[union-attr]
    print_report(table)


def spec_text(spec: Spec, columns: Columns) -> str:
    """Every field of a spec that is set, as a YAML file that can be given instead of the name, and what follows from it."""
    derived = {
        heading: text for (_, heading, _, _), text in zip(columns.columns, columns.cells(spec), strict=True)
    }
    fields = {key: value for key, value in plain(spec).items() if value not in (None, [], {}, "")}
    comment = "derived: " + ", ".join(f"{heading} {shown}" for heading, shown in derived.items())
    return "\n".join([fields_text(fields), *(f"# {line}" for line in textwrap.wrap(comment, 78))])


def fields_text(fields: dict[str, Any]) -> str:
    """Fields as YAML of at most 80 columns, where its words allow."""
    import yaml

    text = ""
    for width in range(78, 38, -4):  # PyYAML breaks a line after the word that makes it too long
        text = yaml.safe_dump(fields, sort_keys=False, width=width, allow_unicode=True).rstrip()
        if all(len(line) <= 80 for line in text.splitlines()):
            break
    return text
