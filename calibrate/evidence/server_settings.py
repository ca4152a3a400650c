"""What authors of measured rows set on their servers and load generators: what a row's command says, or their scripts.

Facts of the scripts in their public repositories are data: ``calibrate/measurements/serving/settings.yaml``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import Field

from calibrate.evidence.repeats import Repeats
from llm_perf.config.base import Efficiency, PositiveFloat, PositiveInt, Spec
from llm_perf.systems.scheduling import Balance, Prompts, Waits

_FILE: Final = "measurements/serving/settings.yaml"
_DATE: Final = re.compile(r"measured (\d{4}-\d{2}-\d{2})")

_COMMAND: Final = re.compile(r"\bcmd: ([^;]*)")
_NUMBERS: Final = {
    "max_num_batched_tokens": ("--max-num-batched-tokens", "--chunked-prefill-size", "--max_num_tokens"),
    "max_num_seqs": ("--max-num-seqs", "--max-running-requests", "--max_batch_size"),
    "gpu_memory_utilization": (
        "--gpu-memory-utilization", "--mem-fraction-static", "--kv_cache_free_gpu_memory_fraction",
    ),
}  # fmt: skip
"""Flags of vLLM, SGLang and TensorRT-LLM that are followed by a number."""
_SWITCHES: Final[Mapping[str, Mapping[str, Any]]] = {
    "--async-scheduling": {"ahead": True},
    "--disable-overlap-schedule": {"ahead": False},
    "--no-enable-prefix-caching": {"prefix_cache": False},
    "--disable-radix-cache": {"prefix_cache": False},
    "--enable-mixed-chunk": {"prompts": "beside decodes"},
    "--enable_chunked_prefill": {"chunked": True},
    "--enforce-eager": {"eager": True},
}

Range = tuple[int, int]


class Amount(Spec):
    """A number made of a row's: so many times its nominal prompt tokens and its concurrency, and more, rounded up."""

    prompt: int = 0
    concurrency: int = 0
    plus: int = 0
    multiple: PositiveInt = 1
    least: int = 0

    def of(self, row: Mapping[str, str]) -> int:
        """The number of a row."""
        whole = self.prompt * _number(row, "prompt_len_tok") + self.concurrency * _number(row, "batch_size")
        return max(math.ceil((whole + self.plus) / self.multiple) * self.multiple, self.least)


Count = Annotated[PositiveInt | Amount, Field()]


class Settings(Spec):
    """Settings of a server and its load generator; None is the engine's own default.

    Attributes:
        prompt_spread: Standard deviation over mean of prompts that are said to vary.
        output_spread: The same of outputs that are said to vary, before they are cut.
        most_output: Tokens at which the load generator cuts outputs that are said to vary.
        distinct_prompts: Prompts that differ in all that a load generator sends; it begins again after so many.
        warm_up: Requests of a closed loop that are sent before those that are counted, where it matters which they were.
        repeats: Runs of the same requests, one after another, of a generator that keeps none in flight.
        eager: Whether steps ran without captured graphs.
        fused_experts: Whether experts ran by kernels that are one module, where an engine lets one choose.
        in_process: Whether requests were handed to the engine itself, with no server before it.
        tuned_by: The program that chose tokens and sequences of a step for the lengths (`calibrate.evidence.engine_tuning`).
        prefix_cache, looks_every, waits, balance, stream_interval, prompts, ahead, chunked: As of
            `llm_perf.systems.scheduling.SchedulerRules`.
    """

    kv_format: str | None = None
    max_num_batched_tokens: Count | None = None
    max_num_seqs: Count | None = None
    gpu_memory_utilization: Efficiency | None = None
    prompt_spread: PositiveFloat | None = None
    output_spread: PositiveFloat | None = None
    most_output: PositiveInt | None = None
    distinct_prompts: PositiveInt | None = None
    warm_up: PositiveInt | None = None
    repeats: Repeats | None = None
    eager: bool = False
    fused_experts: bool | None = None
    in_process: bool = False
    tuned_by: Literal["trtllm-bench"] | None = None
    prefix_cache: bool | None = None
    looks_every: PositiveInt | None = None
    waits: Waits | None = None
    balance: Balance | None = None
    stream_interval: PositiveInt | None = None
    prompts: Prompts | None = None
    ahead: bool | None = None
    chunked: bool | None = None

    @property
    def engine(self) -> dict[str, Any]:
        """Fields of the engine's scheduling rules that are set."""
        names = (
            "prefix_cache",
            "looks_every",
            "waits",
            "balance",
            "stream_interval",
            "prompts",
            "ahead",
            "chunked",
        )
        found = {name: getattr(self, name) for name in names}
        return {name: value for name, value in found.items() if value is not None}


class _For(Spec):
    """Rows that a rule is for; what is not stated is any."""

    system: str | None = None
    version: str | None = None
    model: str | None = None
    gpu: str | None = None
    weights: str | None = None
    since: str | None = None
    prompt: Range | None = None
    output: Range | None = None
    tp: Range | None = None
    concurrency: Range | None = None

    def holds(self, row: Mapping[str, str]) -> bool:
        """Whether a row is one of them."""
        texts = (
            (self.system, row.get("system", "")),
            (self.version, row.get("system_version", "")),
            (self.model, row.get("model", "")),
            (self.gpu, row.get("gpu", "")),
            (self.weights, row.get("weight_dtype", "")),
        )
        if any(wanted is not None and wanted not in text for wanted, text in texts):
            return False
        measured = _DATE.search(_notes(row))
        if self.since is not None and (measured is None or measured[1] < self.since):
            return False
        numbers = (
            (self.prompt, "prompt_len_tok"), (self.output, "gen_len_tok"), (self.tp, "tp"), (self.concurrency, "batch_size"),
        )  # fmt: skip
        return all(
            wanted is None or wanted[0] <= _number(row, column) <= wanted[1] for wanted, column in numbers
        )


class _Rule(Spec):
    for_: _For = Field(alias="for")
    set: dict[str, Any]


class _Source(Spec):
    phrase: str
    source: str
    rules: tuple[_Rule, ...]


@cache
def _sources() -> tuple[_Source, ...]:
    text = (resources.files("calibrate") / _FILE).read_text("utf-8")
    return tuple(_Source.model_validate(one) for one in yaml.safe_load(text))


def settings_of(row: Mapping[str, str]) -> Settings:
    """What is known to have been set for a row's run."""
    stated: dict[str, Any] = {}
    for source in _sources():
        if source.phrase in _notes(row):
            for rule in source.rules:
                if rule.for_.holds(row):
                    stated |= rule.set
    stated |= _of_command(row.get("notes", ""))
    settings = Settings.model_validate(stated)
    counts = {name: getattr(settings, name) for name in ("max_num_batched_tokens", "max_num_seqs")}
    return settings.replace(
        **{name: count.of(row) for name, count in counts.items() if isinstance(count, Amount)}
    )


def _notes(row: Mapping[str, str]) -> str:
    """What a row's notes say, or what of them a predictor is shown."""
    return f"{row.get('notes_for_prediction') or ''} {row.get('notes') or ''}"


def _of_command(notes: str) -> dict[str, Any]:
    """What the command that notes quote sets."""
    command = _COMMAND.search(notes)
    if command is None:
        return {}
    words = re.split(r"[\s=]+", command[1].strip())
    found: dict[str, Any] = {}
    for word, value in zip(words, [*words[1:], ""], strict=True):
        found |= _SWITCHES.get(word, {})
        for name, flags in _NUMBERS.items():
            if word in flags and re.fullmatch(r"\d+|0?\.\d+", value):
                found[name] = int(value) if value.isdigit() else float(value)
    return found


def _number(row: Mapping[str, str], column: str) -> int:
    text = row.get(column, "") or "0"
    return int(float(text)) if re.fullmatch(r"[\d.]+", text) else 0
