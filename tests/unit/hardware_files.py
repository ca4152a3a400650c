"""What tests of hardware files share: the bundled ones by name, and a GPU and a host of one's own to change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_perf.config.loading import known_names
from llm_perf.errors import SpecError

SPECS = Path(__file__).parents[2] / "hardware_specs"
GPUS, HOSTS, EFFICIENCIES = known_names("GPU"), known_names("host"), known_names("efficiency")


def raw(folder: str, stem: str) -> dict[str, Any]:
    """A bundled file as it is written."""
    data = yaml.safe_load((SPECS / folder / f"{stem}.yaml").read_text("utf-8"))
    assert isinstance(data, dict)
    return data


def one_line(error: pytest.ExceptionInfo[SpecError]) -> str:
    """The message of an error, which has to be one line."""
    message = str(error.value)
    assert "\n" not in message
    return message


OWN_GPU = {
    "name": "Mine",
    "peak_tflops": {"fp16": 100, "int8": 200},
    "fp16_accumulate_tflops": 200,
    "year": 2024,
    "memory_gib": 16,
    "usable_memory_gib": 15,
    "hbm_bandwidth_gb_per_s": 500,
    "l2_mib": 32,
    "sm_count": 60,
    "sm_clock_mhz": 2000,
    "pcie_gb_per_s": 31.5,
    "link": {"name": "bridge", "gb_per_s_per_direction": 50, "topology": "pairs"},
    "inter_node_gb_per_s": 3,
    "min_message_latency_us": 8,
    "tdp_w": 200,
    "efficiency": "ada",
}
OWN_HOST = {
    "name": "Mine",
    "memory_gib": 64,
    "usable_memory_gib": 60,
    "swap_gib": 8,
    "pcie_generation": 4,
    "pinned_h2d": {"gb_per_s": 25, "provenance": "measured", "source": "my own run"},
    "disk": {"capacity_gib": 900, "stated_read_gb_per_s": 5},
    "source": "my desk",
}


def write(path: Path, data: dict[str, Any]) -> Path:
    text = json.dumps(data, indent=1) if path.suffix == ".json" else yaml.safe_dump(data, sort_keys=False)
    path.write_text(text, encoding="utf-8")
    return path
