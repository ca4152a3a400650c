"""``calibrate run --system transformers_serve``: random weights served, a load on them, and the prediction beside."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

from pydantic import Field

from calibrate.evidence.benchmark_run import BenchmarkRun, Deployment, Engine, Quantity
from calibrate.probe.endpoint.http import Address, Client, EndpointError
from calibrate.probe.endpoint.load import Account
from calibrate.probe.endpoint.opening import OpeningError, opened
from calibrate.probe.endpoint.point import About, LoadPoint, measure_point
from calibrate.probe.endpoint.prompts import Prompts
from calibrate.probe.endpoint.request import Asking
from calibrate.probe.environment import cpu_name, describe_machine, usable_cores
from calibrate.probe.process import signals_interrupt
from calibrate.probe.records import SCHEMA_VERSION, RunRecord, finite, measuring, writable_folder
from calibrate.run.serve.models import SAMPLES, hf_config_dict
from calibrate.run.serve.server import Served
from calibrate.run.serve.transformers_serve import (
    BLOCK_TOKENS,
    BLOCKS,
    STEP_TOKENS,
    require_serving,
    transformers_serve,
    write_checkpoint,
)
from calibrate.run.session import plain_errors
from calibrate.run.settings import DEFAULT_OFFLOAD_DIR
from llm_perf.analysis.request import InferenceInputs
from llm_perf.analysis.simulation import ServiceInputs, Simulation, simulation_of
from llm_perf.config.base import NonNegativeInt, PositiveInt, Spec
from llm_perf.errors import EnvironmentFailure, SpecError

SYSTEM = "transformers_serve"
AUTO = SAMPLES[0]
QUANTITIES: tuple[Quantity, ...] = ("ttft_s", "tpot_s", "e2e_s", "output_tokens_per_s")


class ServedRunSettings(Spec):
    """Settings of one run, under the names of the flags.

    Attributes:
        model_name: One of the samples, a bundled model, or a folder with a ``config.json``; weights are random.
        batch_size: Requests in flight.
        prompt_len, gen_len: Tokens of each.
        loops: Timed repeats, of one request per request in flight.
        warmup: Repeats before them.
        threads: Of torch; None is all cores that this process may use.
        offload_dir: Folder in which the checkpoint is made, and removed at the end.
        runs_dir: Folder for the JSON of each run.
        verbose: 0 nothing, 1 and 2 the result.
        seed: Of weights and prompts.
        profile: Calibrated profile of the prediction.
        allow_concurrent: Measure although another run measures on this machine.
    """

    _label: ClassVar[str | None] = ""

    model_name: str = Field(default=AUTO, min_length=1)
    batch_size: PositiveInt = 4
    prompt_len: PositiveInt = 128
    gen_len: PositiveInt = Field(default=32, ge=2)
    loops: PositiveInt = 3
    warmup: NonNegativeInt = 1
    threads: PositiveInt | None = None
    offload_dir: str = Field(default=DEFAULT_OFFLOAD_DIR, min_length=1)
    runs_dir: str = Field(default="runs", min_length=1)
    verbose: NonNegativeInt = 1
    seed: NonNegativeInt = 0
    profile: str | None = None
    allow_concurrent: bool = False


def measure_served(settings: ServedRunSettings) -> dict[str, Any]:
    """Serve, measure and predict: the object of ``--json``.

    Raises:
        LLMPerfError: bad settings, something is not installed, or the server failed.
    """
    require_serving()
    config = _config_of(settings.model_name)
    tokens = (
        settings.batch_size * (-(-(settings.prompt_len + settings.gen_len) // BLOCK_TOKENS)) * BLOCK_TOKENS
    )
    if tokens > BLOCKS * BLOCK_TOKENS:
        raise SpecError(
            f"{settings.batch_size} requests of {settings.prompt_len + settings.gen_len} tokens need a cache of {tokens:,} "
            f"tokens; the server of such a run has {BLOCKS * BLOCK_TOKENS:,}"
        )
    parent = writable_folder(settings.offload_dir, "--offload-dir")
    record = RunRecord(
        writable_folder(settings.runs_dir, "--runs-dir"), f"{SYSTEM}-{Path(settings.model_name).name}"
    )
    with signals_interrupt(), measuring(settings.allow_concurrent), plain_errors():
        with tempfile.TemporaryDirectory(prefix="served-", dir=parent) as made:
            folder = Path(made) / Path(settings.model_name).name
            write_checkpoint(config, folder, seed=settings.seed)
            predicted = _predicted(settings, folder)
            with transformers_serve(folder, threads=settings.threads) as served:
                runs = asyncio.run(_loaded(settings, served))
        return _result(settings, runs, predicted, record)


def _config_of(name: str) -> dict[str, Any]:
    if name in SAMPLES:
        return hf_config_dict(name)
    from calibrate.run.model_config import get_model_config

    found: dict[str, Any] = get_model_config(name).to_dict()
    return {
        key: value for key, value in found.items() if key not in ("architectures", "transformers_version")
    }


def _predicted(settings: ServedRunSettings, folder: Path) -> Simulation:
    inputs = InferenceInputs(
        model=str(folder), gpu="none", host="here", system=SYSTEM, profile=settings.profile,
        threads=settings.threads or usable_cores(), max_num_batched_tokens=STEP_TOKENS,
    )  # fmt: skip
    traffic = ServiceInputs(
        rate=float("inf"), num_requests=settings.batch_size, prompt_len=str(settings.prompt_len),
        gen_len=str(settings.gen_len),
    )  # fmt: skip
    return simulation_of(inputs, traffic)


async def _loaded(settings: ServedRunSettings, served: Served) -> list[BenchmarkRun]:
    """Repeats of the load.

    Raises:
        EnvironmentFailure: the server does not answer as it should.
    """
    address = Address.of(served.url)
    client, account, prompts = Client(address), Account(), Prompts(settings.seed)
    about, runs = About(Engine(name=SYSTEM), Deployment(gpu="none"), str(address), {}), []
    point = LoadPoint(settings.batch_size, settings.prompt_len, settings.gen_len)
    try:
        asking, law = await opened(Asking(client, served.model), prompts, account)
        for _ in range(settings.warmup + settings.loops):
            run, _ = await measure_point(point, asking, prompts, law, account, about)
            runs.append(run)
    except (EndpointError, OpeningError) as error:
        raise EnvironmentFailure(f"transformers serve: {error}") from None
    finally:
        await client.close()
    if account.failed:
        raise EnvironmentFailure(f"transformers serve: {account.sentence()}: {account.first_failure}")
    return runs[settings.warmup :]


def _result(
    settings: ServedRunSettings, runs: list[BenchmarkRun], predicted: Simulation, record: RunRecord
) -> dict[str, Any]:
    summary = predicted.summary
    told = {
        "ttft_s": summary.ttft_s.mean, "tpot_s": summary.tpot_s.mean, "e2e_s": summary.e2e_s.mean,
        "output_tokens_per_s": summary.output_tokens_per_s,
    }  # fmt: skip
    measured = {
        name: median([figure.value for run in runs if (figure := run.figure(name)) is not None])
        for name in QUANTITIES
    }
    found: dict[str, Any] = finite(
        {
            "schema_version": SCHEMA_VERSION, "status": "done", "run": settings.model_dump() | {"system": SYSTEM},
            "measured": measured, "predicted": told,
            "error": {name: told[name] / measured[name] - 1 for name in QUANTITIES},
            "raw": [run.as_dict() for run in runs], "run_file": str(record.path),
            "environment": {"device": {"kind": "cpu", "name": cpu_name()}}
            | describe_machine(settings.threads or usable_cores(), Path(settings.runs_dir)),
        }
    )  # fmt: skip
    record.save(**found)
    return found


def print_served(found: dict[str, Any]) -> None:
    """The result for people."""
    run = found["run"]
    if not run["verbose"]:
        return
    lines = [
        f"{run['model_name']} served by transformers, {run['batch_size']} requests at once, prompt {run['prompt_len']}, "
        f"generate {run['gen_len']}",
        f"{'':<22}{'measured':>12}{'predicted':>12}{'error':>9}",
    ]
    told = found["predicted"], found["error"]
    lines += [
        f"{name:<22}{found['measured'][name]:>12.4g}{told[0][name]:>12.4g}{told[1][name]:>+9.1%}"
        for name in QUANTITIES
    ]
    sys.stdout.write("\n".join([*lines, "", f"run: {found['run_file']}", ""]))
