"""``llm-perf calibrate observe``: a short, planned session against a server, and the fit of its stack."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from llm_perf.analysis.request import InferenceInputs
from llm_perf.cli.calibrate_flags import print_object
from llm_perf.cli.calibration import seconds_of
from llm_perf.cli.options import WHOLE, with_options
from llm_perf.errors import EnvironmentFailure, SpecError

_NOT_OF_A_SERVER = (
    "batch_size", "prefix_hit_rate", "shared_prefix", "distinct_prompts", "prefill_chunk", "prompt_len",
)  # fmt: skip
"""Inputs of one batch: a session chooses its own."""

_BUDGET = "120s"


@click.command("observe")
@click.option("--url", help="Of the server's OpenAI-compatible API, such as http://127.0.0.1:8000/v1.")
@click.option("--budget", default=_BUDGET, help=f"Time for everything that is sent.  [default: {_BUDGET}]")
@click.option("--out", help="Folder of the session; one that was begun is gone on with.")
@click.option("--name", help="Of the profile, which is written into the folder.  [default: the system's]")
@click.option("--served-name", help="The server's name of the model, where it is another.")
@click.option("--max-concurrency", type=WHOLE, default=8, help="Requests at once at most.  [default: 8]")
@click.option("--max-len", type=WHOLE, help="Tokens of prompt and output at most.  [default: 1024]")
@click.option("--timeout", default="30s", help="Silence after which a request is given up.  [default: 30s]")
@click.option("--remote", is_flag=True, help="The server is on another machine, and may be put under load.")
@click.option("--seed", type=WHOLE, help="Of the random prompts; another one each time if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object.")
@with_options(InferenceInputs, hidden=_NOT_OF_A_SERVER)
def observe(
    url: str | None,
    budget: str,
    out: str | None,
    name: str | None,
    served_name: str | None,
    max_concurrency: int,
    max_len: int | None,
    timeout: str,
    remote: bool,
    seed: int | None,
    as_json: bool,
    gpus: tuple[str, ...],
    **flags: Any,
) -> int:
    """Watch the server that you run for two minutes: which times its stack and machine take, as a profile.

    Say what it runs with --model, --gpu and the other flags of llm-perf infer; what it says of itself is read. Loads are
    chosen by what they tell; prompts are random, so that no prefix cache answers them.
    """
    given = {field: value for field, value in flags.items() if value is not None}
    for flag, value in (("--url", url), ("--out", out), ("--model", given.get("model")), ("--gpu", gpus)):
        if not value:
            raise SpecError(f"{flag} is required")
    if len(gpus) > 1:
        raise SpecError("a server runs on one kind of GPU: give one --gpu")
    misplaced = next((one for one in _NOT_OF_A_SERVER if one in given), None)
    if misplaced is not None:
        raise SpecError(f"--{misplaced.replace('_', '-')} is of one batch: a session chooses its own loads")
    output = given.pop("gen_len", None)
    from calibrate.fit.observe.report import observed_object, session_lines
    from calibrate.fit.observe.session import ObserveSettings, observe

    inputs = InferenceInputs(**given, gpu=gpus[0])
    settings = ObserveSettings(
        url=url or "", inputs=inputs, out=Path(out or "").expanduser(), budget_s=seconds_of(budget),
        served_name=served_name, remote=remote, stall_s=seconds_of(timeout), most_concurrency=max_concurrency,
        longest=max_len, seed=seed, **({} if output is None else {"output": output}),
    )  # fmt: skip
    found = observe(settings, _Said())
    fitted, profile = _fitted(settings.out, name or found.scenario.system)
    if as_json:
        print_object(observed_object(found, fitted, profile))
    else:
        click.echo("\n".join(session_lines(found, fitted, profile)))
    if found.ended is not None:
        kept = f"{found.points} points are kept in {settings.out}" if found.points else "nothing was measured"
        raise EnvironmentFailure(f"the session ended: {found.ended}; {found.account.sentence()}; {kept}")
    return 0


def _fitted(folder: Path, name: str) -> tuple[Any, Path | None]:
    """The fit of what is there and its profile; None where that is too little."""
    from calibrate.fit.observe.stack_fit import fit_sessions, profile_of
    from calibrate.fit.observe.store import stored
    from calibrate.fit.profile_file import write_profile

    try:
        session = stored(folder)
        fitted = fit_sessions([session])
    except SpecError as error:
        click.echo(f"no profile: {error}", err=True)
        return None, None
    return fitted, write_profile(
        profile_of(fitted, name, session.facts.get("server") or {}), str(folder / f"{name}.yaml")
    )


class _Said:
    """Progress on stderr: one line that is replaced on a terminal, a line each otherwise."""

    def __call__(self, text: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text}")
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
