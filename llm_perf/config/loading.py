"""Specs by name or path: all that finds one, in one place to import from."""

from __future__ import annotations

from llm_perf.config.bundled import HERE, known_names, load_spec, other_names, resolve_name
from llm_perf.config.dtype import get_dtype_config_by_name
from llm_perf.config.named_gpus import get_gpu_config_by_name, gpu_of_driver
from llm_perf.config.named_hosts import (
    described_hosts,
    get_host_config_by_name,
    host_of_processor,
    host_with,
    relative_of,
    usual_host,
    with_host_memory,
)
from llm_perf.config.named_models import checkpoint_of, get_model_config_by_name, published_models

__all__ = [
    "HERE",
    "checkpoint_of",
    "described_hosts",
    "get_dtype_config_by_name",
    "get_gpu_config_by_name",
    "get_host_config_by_name",
    "get_model_config_by_name",
    "gpu_of_driver",
    "host_of_processor",
    "host_with",
    "known_names",
    "load_spec",
    "other_names",
    "published_models",
    "relative_of",
    "resolve_name",
    "usual_host",
    "with_host_memory",
]
