"""The command that starts an engine as a deployment describes it, in the engine's own flags."""

from __future__ import annotations

import shlex

from llm_perf.analysis.request import InferenceInputs
from llm_perf.config.loading import get_model_config_by_name
from llm_perf.errors import SpecError
from llm_perf.report.command import in_lines
from llm_perf.systems.families import declaration, find

__all__ = ["start_command"]


def start_command(inputs: InferenceInputs) -> str | None:
    """The command in lines of less than 80 characters; None where it is not known how the engine is started.

    What an engine takes from a checkpoint, such as 4-bit weights, is said behind a ``#``.
    """
    if inputs.system is None:
        return None
    start = declaration(find(inputs.system)[0]).start
    if start is None:
        return None
    words = [start.command.format(model=shlex.quote(_checkpoint(inputs.model)))]
    for name, flag in start.flags.items():
        value = getattr(inputs, name)
        if value is not None and (name.startswith(("max_", "gpu_")) or value > 1):
            words.append(f"{flag} {value:g}" if isinstance(value, float) else f"{flag} {value}")
    notes = []
    for stated, known, what in (
        (inputs.weight_format, start.weight_formats, "weights"),
        (inputs.kv_format, start.kv_formats, "cache"),
    ):
        if stated in (None, "auto"):
            continue
        if stated in known:
            words.append(known[stated])
        else:
            notes.append(f"# {what} in {stated}: give a checkpoint that has them so")
    return "\n".join([*notes, in_lines(words)])


def _checkpoint(model: str) -> str:
    """The name of the checkpoint on the hub, where the model is a bundled one."""
    try:
        return get_model_config_by_name(model).name
    except SpecError:
        return model
