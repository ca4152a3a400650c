"""From a run of a served engine to the question that predicts it: its deployment, and the requests that it was sent.

What the run's source does not say is asked for by the name of its flag; nothing is guessed. A source's names of models, GPUs
and number formats are looked up as those of the command line are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import numpy as np

from calibrate.evidence.benchmark_run import BenchmarkRun, Deployment, LoadPattern, TokenLengths
from calibrate.evidence.request_runs import LOOP_ROUNDS, SPREAD, capped_outputs
from calibrate.evidence.stated_formats import checkpoint, named_format
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.run_facts import RunFacts
from llm_perf.config.files import looks_like_path
from llm_perf.config.host import HostConfig, HostTimeScale
from llm_perf.config.loading import (
    get_gpu_config_by_name,
    get_host_config_by_name,
    get_model_config_by_name,
    resolve_name,
)
from llm_perf.config.scenario import Scenario
from llm_perf.config.workload import Shares
from llm_perf.errors import LLMPerfError, SpecError, UnknownNameError
from llm_perf.requests.arrivals import arrivals
from llm_perf.requests.lengths import Lengths
from llm_perf.requests.workload import Ints, Requests
from llm_perf.systems import get_system
from llm_perf.systems.families import declaration, find

FLAGS: Final = {
    "model": "--model", "gpu": "--gpu", "num_gpus": "--num-gpus", "tp": "--tp-size", "pp": "--pp-size", "dp": "--dp-size",
    "ep": "--ep-size", "machine": "--host", "weight_format": "--weight-format", "kv_format": "--kv-format",
    "max_num_seqs": "--max-num-seqs", "max_num_batched_tokens": "--max-num-batched-tokens",
    "gpu_memory_utilization": "--gpu-memory-utilization", "system": "--system", "prompt_len": "--prompt-len",
    "gen_len": "--gen-len", "batch_size": "--batch-size", "concurrency": "--concurrency", "rate": "--rate",
    "prefix_hit_rate": "--prefix-hit-rate", "n_gpu_layers": "--n-gpu-layers", "threads": "--threads",
    "ubatch_size": "--ubatch-size", "distinct_prompts": "--distinct-prompts",
}  # fmt: skip
"""What a user may tell of runs, by the flag that tells it."""

Told = Mapping[str, Any]

_MOST: Final = 3000
"""Requests of a simulation: more change no figure by a percent."""

_FORMAT_OF_NAME: Final = re.compile(
    r"[-_.](fp8|fp8-dynamic|nvfp4|mxfp4|awq|gptq|gptq-int4|gptq-int8|int8|bf16)(?:-block|-kv)?$",
    re.IGNORECASE,
)
"""What the name of a converted checkpoint ends in."""

_SPECULATIVE: Final = ("accept_length", "acceptance_percent")


@dataclass(frozen=True)
class Served:
    """A run with what predicts it.

    Attributes:
        run: As it was read.
        inputs: The question, as flags would ask it; batch and lengths are those of a static batch.
        facts: What no flag can say of it.
        scenario: The deployment; of requests that come and go with a batch of one sequence per engine.
        requests: What was sent; None of a static batch.
        warm_up: First requests that its figures leave out.
    """

    run: BenchmarkRun
    inputs: InferenceInputs
    facts: RunFacts
    scenario: Scenario
    requests: Requests | None = None
    warm_up: int = 0

    @property
    def concurrency(self) -> int:
        """Sequences of the batch, or requests in flight; 1 where neither is stated."""
        return self.run.load.concurrency or 1

    @property
    def prompt(self) -> float:
        """Mean prompt."""
        return self.run.prompt.mean or 1.0

    @property
    def output(self) -> float:
        """Mean output."""
        return self.run.output.mean or 1.0

    @property
    def num_gpus(self) -> int:
        """GPUs of the whole deployment."""
        return self.scenario.parallelism.num_gpus

    @property
    def model(self) -> str:
        """The model's name, that of its group."""
        return self.scenario.model.name


def told_run(run: BenchmarkRun, told: Told) -> BenchmarkRun:
    """The run with what its user tells of it, which goes before what its source says.

    Raises:
        SpecError: a value is none of its kind.
    """
    named = {name: value for name, value in told.items() if value is not None}
    deployment = {name: named[name] for name in named if name in Deployment.model_fields}
    engine = run.engine
    if "system" in named:
        name, _, version = str(named["system"]).partition("@")
        engine = engine.replace(name=name, version=version or engine.version)
    load = run.load
    if named.get("batch_size") is not None and load.kind in (None, "batch"):
        load = load.replace(kind="batch", concurrency=named["batch_size"])
    if named.get("concurrency") is not None:
        load = load.replace(kind="closed_loop", concurrency=named["concurrency"])
    if named.get("distinct_prompts") is not None:
        load = load.replace(distinct_prompts=named["distinct_prompts"])
    if named.get("rate") is not None:
        load = load.replace(kind="rate", request_rate=float(named["rate"]), burstiness=load.burstiness or 1.0)
    lengths = {
        part: TokenLengths(mean=float(named[flag]), kind=known.kind or "fixed")
        for part, flag, known in (("prompt", "prompt_len", run.prompt), ("output", "gen_len", run.output))
        if named.get(flag) is not None
    }
    return run.replace(
        engine=engine,
        deployment=run.deployment.replace(**deployment) if deployment else run.deployment,
        load=load,
        notes=(*run.notes, *_overruled(run.deployment, deployment)),
        **lengths,
    )


def _overruled(stated: Deployment, told: Mapping[str, Any]) -> Iterator[str]:
    """What a source says of the model or the GPU where its user says otherwise."""
    for name, spec in (("model", _model), ("gpu", lambda gpu: get_gpu_config_by_name(gpu).name)):
        said, now = getattr(stated, name), told.get(name)
        if said is None or now is None or said == now:
            continue
        with suppress(SpecError):
            if spec(now) == spec(said):
                continue
        yield f"its source says {name} {said}; --{name} {now} goes before"


def served_of(run: BenchmarkRun, profile: str | None = None) -> Served:
    """What predicts a run, under a profile where one is named.

    Raises:
        SpecError: its source leaves something out, each of which is named by its flag; a name is unknown; or it is of a kind
            that is not predicted.
    """
    missing = _missing(run)
    if missing:
        raise SpecError(f"{run.source}: it does not say {_listed(missing)}")
    if any(run.engine.settings.get(name) for name in _SPECULATIVE):
        raise SpecError(
            f"{run.source}: it drafted tokens: runs with a draft model are not predicted from their results"
        )
    try:
        inputs, facts = _question(run)
        if profile is not None:
            inputs = inputs.replace(profile=profile)
        scenario = build_scenario(inputs, facts)
    except LLMPerfError as error:
        raise SpecError(f"{run.source}: {error}") from None
    requests = None if run.load.kind == "batch" else _requests(run)
    return Served(run, inputs, facts, scenario, requests, run.load.warm_up_requests or 0)


def served_run(run: BenchmarkRun, inputs: InferenceInputs, scenario: Scenario) -> Served:
    """A run whose deployment is known already, as that of an observed endpoint is."""
    requests = None if run.load.kind == "batch" else _requests(run)
    return Served(run, inputs, RunFacts(), scenario, requests, run.load.warm_up_requests or 0)


def _missing(run: BenchmarkRun) -> list[tuple[str, str]]:
    """(what, flag) of what a prediction cannot do without."""
    found = []
    if run.deployment.model is None:
        found.append(("the model", "--model"))
    if run.deployment.gpu is None:
        found.append(("the GPU", "--gpu"))
    if run.engine.name is None:
        found.append(("the engine", "--system"))
    if run.load.kind is None:
        found.append(("how requests came", "--concurrency, --rate or --batch-size"))
    elif run.load.kind == "batch" and run.load.concurrency is None:
        found.append(("the batch", "--batch-size"))
    elif run.load.kind == "closed_loop" and run.load.concurrency is None:
        found.append(("how many were in flight", "--concurrency"))
    if run.prompt.mean is None and run.requests is None:
        found.append(("the length of prompts", "--prompt-len"))
    if run.output.mean is None and run.requests is None:
        found.append(("the length of outputs", "--gen-len"))
    return found


def _listed(missing: list[tuple[str, str]]) -> str:
    what = ", ".join(name for name, _ in missing)
    return f"{what}: pass {' and '.join(flag for _, flag in missing)}"


# -- the deployment --------------------------------------------------------------------------------------------------


def _question(run: BenchmarkRun) -> tuple[InferenceInputs, RunFacts]:
    d = run.deployment
    stated = str(d.model)
    model = _model(stated)
    system = _system(run)
    weights = d.weight_format or _format_of(stated)
    batch, engines = _batch(run), _engines(d)
    static = run.load.kind == "batch"
    split = get_system(system).family.more_gpus == "stages"
    gpus = d.num_gpus or (d.tp or 1) * (d.pp or 1) * (d.dp or 1)
    host, passes = _host(d), "ubatch_tokens" in get_system(system).file.constants
    inputs = InferenceInputs(
        model=model,
        gpu="none" if d.gpu == "none" else _gpu(str(d.gpu)),
        system=system,
        host=d.machine or (d.host if d.gpu == "none" else None),
        batch_size=batch if static else engines,
        prompt_len=max(round(run.prompt.mean or 1), 1) if static else 1,
        gen_len=max(round(run.output.mean or 1), 1) if static else 1,
        tp_size=1 if split else d.tp or 1,
        pp_size=gpus if split else d.pp or 1,
        dp_size=1 if split else engines,
        ep_size=d.ep or 1,
        weight_format=weights,
        kv_format=d.kv_format,
        activation_bits=d.activation_bits or 16,
        prefix_hit_rate=d.prefix_hit_rate or 0.0 if static else 0.0,
        distinct_prompts=run.load.distinct_prompts if static else None,
        shared_prefix=bool(d.prefix_hit_rate) and static,
        max_num_seqs=d.max_num_seqs,
        max_num_batched_tokens=d.max_num_batched_tokens,
        gpu_memory_utilization=d.gpu_memory_utilization,
        n_gpu_layers=d.n_gpu_layers,
        threads=d.threads if d.gpu == "none" else None,
        allow_long_context=True,  # it ran
    )
    config = get_model_config_by_name(model)
    converted = config if weights is None else checkpoint(config, named_format(weights) or weights)
    facts = RunFacts(
        model=None if converted is config else converted,
        host=host,
        num_nodes=d.num_nodes,
        kv_cache=Shares.on("gpu") if get_system(system).family.cache_on == "gpu" else None,
        constants=() if d.ubatch_size is None or not passes else (("ubatch_tokens", float(d.ubatch_size)),),
    )
    return (inputs.replace(weight_format=None) if facts.model is not None else inputs), facts


def _engines(d: Deployment) -> int:
    """Data-parallel engines of the deployment."""
    ranks = (d.tp or 1) * (d.pp or 1)
    return d.dp or max((d.num_gpus or ranks) // ranks, 1)


def _batch(run: BenchmarkRun) -> int:
    return run.load.concurrency or 1


def _system(run: BenchmarkRun) -> str:
    """The engine as ``--system`` names it, in its version where that has numbers."""
    name, version = str(run.engine.name), run.engine.version
    family = find(name)[0]
    stated = declaration(family).version_of_build(version)
    return f"{family}@{stated}" if stated and re.search(r"\d", stated) else family


def _model(stated: str) -> str:
    """The bundled spec of a name, or of the checkpoint that a converted one is of; a file or folder as it is.

    Raises:
        SpecError: no such spec ships.
    """
    if looks_like_path(stated):
        return stated
    bare = _FORMAT_OF_NAME.sub("", stated)
    for name in dict.fromkeys((stated, bare, bare.partition("/")[2] or bare)):
        with suppress(UnknownNameError):
            return resolve_name("model", name)
    raise SpecError(
        f"model {stated}: no spec of that name ships: pass --model with one that does, or with its config.json"
    )


def _gpu(stated: str) -> str:
    """The spec of a GPU: a bundled one by name or alias, or a file."""
    return stated if looks_like_path(stated) else resolve_name("GPU", stated)


def _format_of(stated: str) -> str | None:
    """The number format that a checkpoint's name ends in."""
    found = _FORMAT_OF_NAME.search(stated)
    return None if found is None else named_format(found[1].lower())


def _host(d: Deployment) -> HostConfig | None:
    """The host that is named, where it is one that ships; else the GPU's usual one."""
    if d.gpu == "none" or d.host is None or d.machine is not None:
        return None
    gpu, scale = get_gpu_config_by_name(_gpu(str(d.gpu))), _time_scale(d.host)
    if gpu.default_host is None or scale is None:
        return None
    return get_host_config_by_name(gpu.default_host).replace(host_time_scale=scale)


@cache
def _time_scale(host: str) -> HostTimeScale | None:
    """How fast a processor runs an engine's Python; None of one that is not known."""
    with suppress(SpecError):
        return get_host_config_by_name(resolve_name("host", host)).host_time_scale
    return None


# -- the requests ----------------------------------------------------------------------------------------------------


def _requests(run: BenchmarkRun) -> Requests:
    """What was sent, as far as the source says it; lengths that vary spread as `SPREAD` says."""
    load = run.load
    if load.kind == "trace" and run.requests is None:
        raise SpecError(f"{run.source}: its requests are not kept, so that their times cannot be told")
    if run.requests is not None and all(one.prompt_tokens and one.output_tokens for one in run.requests):
        closed = load.concurrency if load.kind == "closed_loop" else None
        sent = sorted(run.requests, key=lambda one: one.arrival_s)
        return Requests.of(
            np.zeros(len(sent)) if closed else np.array([one.arrival_s for one in sent]),
            np.array([one.prompt_tokens for one in sent]),
            np.array([one.output_tokens for one in sent]),
            concurrency=closed,
        )
    closed = load.concurrency if load.kind == "closed_loop" else None
    count, again = _count(load, run.counts.completed), load.distinct_prompts if closed else None
    count += 0 if again is None else load.warm_up_requests or 0
    generator = np.random.default_rng(0)
    prompt = _tokens(run.prompt, generator, count, capped=False)
    output = _tokens(run.output, generator, count, capped=True)
    rate = load.request_rate if load.kind == "rate" else math.inf
    at = np.zeros(count) if closed else arrivals(rate or math.inf, load.burstiness or 1.0, count, generator)
    # The generator's prompts come round again, and an engine with a prefix cache finds them.
    repeated = {} if again is None else {"prefix_id": np.arange(count) % again, "prefix_tokens": prompt}
    return Requests.of(at, prompt, output, concurrency=closed, **repeated)


def _count(load: LoadPattern, completed: int | None) -> int:
    """Requests of the simulation: those that were sent, or that ended, or ten per place of a loop."""
    sent = load.num_requests or completed
    if sent:
        return min(sent, max(_MOST, 2 * (load.concurrency or 1)))
    if load.kind == "closed_loop" and load.concurrency is not None:
        return min(LOOP_ROUNDS * load.concurrency, max(_MOST, 2 * load.concurrency))
    return _MOST


def _tokens(lengths: TokenLengths, generator: np.random.Generator, count: int, *, capped: bool) -> Ints:
    """Lengths of so many requests."""
    mean = lengths.mean or 1.0
    if lengths.values is not None and min(lengths.values, default=0) > 0:
        return np.resize(np.array(lengths.values, np.int64), count)
    if lengths.kind == "uniform" and lengths.low is not None and lengths.high is not None:
        low = max(round(lengths.low), 1)
        return Lengths("uniform", low, max(round(lengths.high), low)).tokens(generator, count)
    if lengths.kind in ("lognormal", "normal") and lengths.sd:
        return Lengths("lognormal", mean, lengths.sd).tokens(generator, count)
    if lengths.kind == "vary" and lengths.sd is not None:
        known = Lengths("lognormal", mean, lengths.sd) if lengths.sd else Lengths("fixed", mean)
        return known.tokens(generator, count)
    if lengths.kind == "vary":
        drawn = Lengths("lognormal", mean, SPREAD * mean)
        return capped_outputs(drawn, mean, generator, count) if capped else drawn.tokens(generator, count)
    # No request has a part of a token: a mean with a fraction is that of whole lengths, as for ``llm-perf simulate``.
    return Lengths("fixed" if mean == int(mean) else "mean", mean).tokens(generator, count)


def with_constants(served: Served, constants: Mapping[str, float]) -> Scenario:
    """A run's scenario under other constants; what the run itself set stays."""
    merged = {**constants, **dict(served.scenario.constants)}
    return replace(served.scenario, constants=tuple(sorted(merged.items())))
