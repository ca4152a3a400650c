"""The prediction of exactly the run at hand: llama.cpp on this machine's CPU, before a probe or with its profile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibrate.run.llama_cpp import SYSTEM
from calibrate.run.prediction import Prediction
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.run_facts import RunFacts
from llm_perf.config.host import HostConfig
from llm_perf.config.model import ModelConfig
from llm_perf.config.scenario import Scenario
from llm_perf.errors import DoesNotFitError

if TYPE_CHECKING:
    from calibrate.run.llama_cpp.session import LlamaCppSession

HOST = "here"
NO_GPU = "none"


def predict(session: LlamaCppSession) -> Prediction:
    """Predict a session's run, and refuse what does not fit.

    Raises:
        SpecError: the context is beyond the model's positions, or the machine's CPU is not known well enough.
        DoesNotFitError: memory has no room for the model; the prediction is in ``report``.
    """
    s = session.settings
    result = predict_llama_cpp(
        session.model,
        s.prompt_len,
        s.gen_len,
        session.threads,
        ubatch_size=s.ubatch_size,
        profile=s.profile,
        weight_format=None if session.model.stored_formats is not None else session.weight_format,
        allow_long_context=s.allow_long_context,
    )
    memory = result.memory.cpu
    # What the process holds: not what is kept free for others.
    found = Prediction(result, float(memory.total_bytes - memory.reserved_bytes))
    missing = float(result.memory.nvme.weights_bytes)
    if result.reason is not None or missing > 0:
        why = result.reason or f"host memory has no room for {missing / 2**30:.1f} GiB of its weights"
        error = DoesNotFitError(
            f"{session.model.name}: {why} ({memory.capacity_bytes / 2**30:.1f} GiB are free)"
        )
        error.report = found.as_json(s)
        raise error
    return found


def predict_llama_cpp(
    model: ModelConfig, prompt_len: int, gen_len: int, threads: int, **asked: Any
) -> InferenceResult:
    """What ``infer --system llama_cpp --gpu none --host here`` answers for these shapes; see ``scenario_of``."""
    return predict_inference(scenario_of(model, prompt_len, gen_len, threads, **asked))


def scenario_of(
    model: ModelConfig,
    prompt_len: int,
    gen_len: int,
    threads: int,
    *,
    ubatch_size: int = 512,
    profile: str | Path | None = None,
    weight_format: str | None = None,
    allow_long_context: bool = False,
    host: HostConfig | None = None,
    prefix_hit_rate: float = 0.0,
) -> Scenario:
    """llama.cpp with these shapes on this machine's CPU.

    Args:
        model: With the formats of its file, if it was read from one.
        prompt_len: Prompt tokens.
        gen_len: Tokens to generate.
        threads: Of the CPU.
        ubatch_size: Prompt tokens per pass.
        profile: Calibrated profile; None for the constants that ship.
        weight_format: Where the model has no formats of its own.
        allow_long_context: Beyond the model's positions.
        host: Another machine than this one.
        prefix_hit_rate: Share of the prompt that is in the cache already.

    Raises:
        SpecError: the parts do not go together.
    """
    inputs = InferenceInputs(
        model=model.name,
        gpu=NO_GPU,
        host=HOST,
        system=SYSTEM,
        prompt_len=prompt_len,
        gen_len=gen_len,
        threads=threads,
        ubatch_size=ubatch_size,
        weight_format=weight_format or "auto",
        allow_long_context=allow_long_context,
        profile=None if profile is None else str(profile),
        prefix_hit_rate=prefix_hit_rate,
    )
    return build_scenario(inputs, RunFacts(model=model, host=host))


def scenario_of_run(run: Mapping[str, Any], machine: Mapping[str, Any]) -> Scenario:
    """The scenario of a run's JSON, on the machine that it was made on.

    Args:
        run: Its ``run``.
        machine: Its ``machine``.

    Raises:
        SpecError: a value cannot be.
        KeyError: a field is missing.
    """
    return scenario_of(
        ModelConfig(**machine["model"]),
        run["prompt_len"],
        run["gen_len"],
        run["threads"],
        ubatch_size=run["ubatch_size"],
        allow_long_context=True,
        host=HostConfig(**machine["host"]),
    )
