"""Any values of the flags: a result, a result that does not fit, or one line that says what is wrong. Nothing else."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from typing import Any

import click
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from llm_perf.cli.infer import infer
from llm_perf.cli.main import run
from llm_perf.config.loading import known_names
from llm_perf.systems import system_names

MODELS = (
    "opt-125m", "opt-1.3b", "opt-30b", "opt-175b", "bloom-7b1", "llama-2-70b", "mixtral-8x7b", "gemma-2-9b", "gpt-oss-20b",
    "deepseek-v2-lite", "bert-base",
)  # fmt: skip
HARMLESS = {"--json", "--explain"}
SIZES = (
    st.sampled_from([1, 2, 3, 4, 8, 16])
    | st.integers(-2, 2**14)
    | st.sampled_from([0, 10**12, 10**13, 2**63])
)
BITS = st.sampled_from([4, 8, 16, 32, 0, 3])
RATES = st.floats(0, 1) | st.floats() | st.sampled_from([1e-300, 5e-324, 1e12])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "--host": st.sampled_from(known_names("host")),
    "--system": st.sampled_from([*system_names(), "ft", "flexgen", "no-such"]),
    "--ds-zero": st.sampled_from([0, 1, 2, 3, 3, 3, 4]),
}


# Other names and paths are not drawn: they would be files.
OPTIONS = [
    option
    for option in infer.params
    if isinstance(option, click.Option)
    and option.opts[0] not in HARMLESS
    and (option.opts[0] in VALUES or option.is_flag or option.type in (click.INT, click.FLOAT))
]

# Made once: in each example they would cost as much as what is drawn from them.
MODEL = st.sampled_from(MODELS)
GPUS = st.lists(st.sampled_from(known_names("GPU")), min_size=1, max_size=2)
SOME_OPTIONS = st.lists(st.sampled_from(OPTIONS), max_size=6, unique=True)
SOME_HARMLESS = st.lists(st.sampled_from(sorted(HARMLESS)), unique=True)
SPELLINGS = {
    option.name: st.sampled_from([*option.opts, *option.secondary_opts])
    for option in OPTIONS
    if option.is_flag
}


def values_of(option: click.Option) -> st.SearchStrategy[Any]:
    flag = option.opts[0]
    if flag in VALUES:
        return VALUES[flag]
    if option.type is click.FLOAT:
        return RATES
    return BITS if flag.endswith("-bits") else SIZES


@st.composite
def flags(draw: st.DrawFn) -> list[str]:
    """A model and a GPU that exist, and up to six more flags of all that there are, mostly with sane values."""
    words = ["--model", draw(MODEL)]
    for gpu in draw(GPUS):
        words += ["--gpu", gpu]
    for option in draw(SOME_OPTIONS):
        if option.is_flag:
            words.append(draw(SPELLINGS[option.name]))
        else:
            words.append(f"{option.opts[0]}={draw(values_of(option))}")
    return words + draw(SOME_HARMLESS)


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv("LLM_PERF_DEBUG", raising=False)
        yield


@settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "400")), suppress_health_check=[HealthCheck.too_slow]
)
@given(flags())
def test_any_flags_end_well(words: list[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["infer", *words])
    event(f"exit {code}")
    if code == 2:
        assert out.getvalue() == ""
        assert err.getvalue().startswith("llm-perf: ")
        assert err.getvalue().count("\n") == 1
        return
    assert code in (0, 3), err.getvalue()
    assert err.getvalue() == ""
    if "--json" in words:
        found = json.loads(out.getvalue(), parse_constant=lambda literal: pytest.fail(literal))
        for answer in found.get("comparison", [found]):
            check(answer)


def check(answer: dict[str, Any]) -> None:
    """What holds for every result, however strange the question."""
    for phase in ("prefill", "total"):
        assert answer[phase]["latency_s"] > 0
        assert answer[phase]["throughput_tokens_per_s"] > 0
    for tier in answer["memory"].values():
        parts = [
            tier[f"{part}_bytes"] for part in ("weights", "kv_cache", "activations", "buffers", "reserved")
        ]
        assert all(part >= 0 for part in parts)
        assert sum(parts) == tier["total_bytes"]
    for kind in ("weights", "kv_cache", "activations"):
        assert sum(answer["placement"][kind].values()) == pytest.approx(1)
    batch, context = answer["inputs"]["batch_size"], answer["inputs"]["prompt_len"]
    if answer["feasible"]:
        waits = any("run at once" in text for text in answer["warnings"])
        assert waits == (answer["max_batch_size"] < batch)
        assert waits or answer["max_context_len"] >= context
        assert answer["suggestions"] == []
    else:
        assert "missing" in answer["reason"]
        assert answer["max_batch_size"] < batch
