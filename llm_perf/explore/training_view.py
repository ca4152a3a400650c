"""One prediction of training as a view, with the words and tables of ``llm-perf train``."""

from __future__ import annotations

from typing import Any, Final

from llm_perf.analysis.economics import gpu_price
from llm_perf.analysis.training import TrainingResult, predict_training
from llm_perf.analysis.training_advice import training_changes_that_fit
from llm_perf.analysis.training_economics import training_cost
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.analysis.training_speedups import faster_training
from llm_perf.explore import cards
from llm_perf.explore.blocks import block
from llm_perf.explore.figures import step_figure, tiers_figure
from llm_perf.report.command import command_of
from llm_perf.report.inference_json import finite
from llm_perf.report.inference_text import dollars
from llm_perf.report.looks import COLOURS
from llm_perf.report.training_json import training_object
from llm_perf.report.training_text import TRAINING_PARTS, training_answer, training_sections, verdict
from llm_perf.report.units import brief, count, gib, rate

__all__ = ["training_view"]

SCHEMA_VERSION: Final = 1
_MEMORY: Final = {
    "weights_bytes": COLOURS[0],
    "gradients_bytes": COLOURS[1],
    "optimizer_bytes": COLOURS[2],
    "activations_bytes": COLOURS[4],
    "logits_bytes": COLOURS[3],
    "buffers_bytes": COLOURS[5],
    "temporaries_bytes": COLOURS[6],
    "fragmentation_bytes": "@line",
    "reserved_bytes": "@muted",
}


def training_view(inputs: TrainingInputs) -> dict[str, Any]:
    """Predict what was asked, as ``llm-perf train`` does, and show it.

    Raises:
        SpecError: unknown names, or settings that contradict each other.
    """
    result = predict_training(build_training_scenario(inputs))
    price = gpu_price(result.scenario.gpu.name, inputs.cost_per_gpu_hour, None)
    changes = training_changes_that_fit(inputs, result)
    answer = training_answer(result, changes, faster_training(inputs, result))
    sections = {name: block(part) for name, part in training_sections(result, changes, price).items()}
    alarm = [part | {"alarm": True} for part in cards.parts(sections, "does_not_fit")]
    memory = result.memory
    tiers = (("nvme", memory.nvme), ("cpu", memory.cpu), ("gpu", memory.gpu))
    used = tuple((name, parts) for name, parts in tiers if name == "gpu" or float(parts.total_bytes) > 0)
    first = [cards.lines(answer), cards.tiles(_tiles(result, price)), *alarm]
    step = step_figure(result.breakdown_s, TRAINING_PARTS, result.step_time_s)
    found = [
        cards.card(
            "answer", _label(result), [*first, *cards.parts(sections, "title", "interval", "note")], wide=True
        ),
        cards.card(
            "latency",
            "Where the time goes",
            [cards.figure("breakdown", step), *cards.parts(sections, "figures", "breakdown")],
        ),
        cards.card(
            "memory",
            "Memory",
            [cards.figure("memory", tiers_figure(used, _MEMORY)), *cards.parts(sections, "memory", "phases")],
        ),
        cards.card("money", "The run, cost, energy", cards.parts(sections, "run", "money")),
        cards.card(
            "command",
            "The same on the command line",
            [
                cards.code(
                    command_of("llm-perf train", inputs.model_dump(exclude_defaults=True, exclude_none=True))
                )
            ],
        ),
    ]
    view = {
        "schema_version": SCHEMA_VERSION,
        "kind": "training",
        "label": _label(result),
        "cards": [card for card in found if card["parts"]],
        "near": [],
        "result": training_object(result, inputs.model_dump(), changes, price),
    }
    return finite(view)  # type: ignore[no-any-return]


def _label(result: TrainingResult) -> str:
    scenario, gpus = result.scenario, result.scenario.num_gpus
    where = scenario.gpu.name if gpus == 1 else f"{gpus} x {scenario.gpu.name}"
    what = f"LoRA rank {scenario.plan.lora_rank}" if scenario.plan.lora_rank else "training"
    return f"{scenario.model.name.rpartition('/')[2]} on {where}, {scenario.framework}, {what}"


def _tiles(result: TrainingResult, price: Any) -> list[dict[str, Any]]:
    """The numbers that people look for first."""
    gpu = result.memory.gpu
    cost = "no price" if price is None else dollars(training_cost(result, price).per_million_tokens)
    values = (
        ("Fits", verdict(result)),
        ("Step", brief(result.step_time_s)),
        ("Throughput", rate(result.throughput_tokens_per_s)),
        ("MFU", f"{result.mfu:.1%}"),
        ("Memory of one GPU", f"{gib(float(gpu.total_bytes))} of {gib(float(gpu.capacity_bytes))}"),
        ("Sequences per step", count(result.batch.global_batch_size)),
        ("Largest micro-batch", count(result.max_micro_batch_size)),
        ("Cost of a million tokens", cost),
    )
    return [
        {"name": name, "value": value, "alarm": not result.feasible and name in ("Fits", "Memory of one GPU")}
        for name, value in values
    ]
