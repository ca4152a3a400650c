"""One prediction as a view: what the page shows of it, as plain JSON.

Texts and tables are those of ``llm-perf infer``, ``result`` is the object of ``infer --json``; figures carry the same
numbers, with labels made by the same functions. Nothing is computed here that the command line computes elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from llm_perf.analysis.advice import Change, changes_that_fit
from llm_perf.analysis.economics import cost_of, gpu_price
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.speedups import faster
from llm_perf.config.economics import Price
from llm_perf.explore import cards, figures
from llm_perf.explore.blocks import block
from llm_perf.explore.comparison import comparison_card
from llm_perf.explore.service import service_card
from llm_perf.report.command import infer_command
from llm_perf.report.inference_json import finite, result_object
from llm_perf.report.inference_text import dollars, inference_answer, machine_name, report_sections
from llm_perf.report.units import count, gib, percent, rate, seconds
from llm_perf.systems import system_of

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True)
class Measured:
    """What a real run measured, beside its prediction.

    ``latencies_s`` by phase (prefill, decode, total) and ``peak_bytes``; None where it was not measured.
    ``predicted_peak_bytes`` is the prediction of exactly what was counted.
    """

    source: str
    latencies_s: dict[str, float | None]
    peak_bytes: float | None = None
    predicted_peak_bytes: float | None = None


@dataclass(frozen=True)
class Prediction:
    """A prediction, and what a report adds to it.

    ``inputs`` is None where the scenario was not asked for with flags (a measured run); ``notes`` are shown above all
    others; ``others`` are the same question to other GPUs, to stand beside this one.
    """

    result: InferenceResult
    inputs: InferenceInputs | None = None
    nearest: dict[str, Any] | None = None
    measured: Measured | None = None
    notes: tuple[str, ...] = field(default=())
    others: tuple[Prediction, ...] = field(default=())

    @classmethod
    def of(cls, inputs: InferenceInputs) -> Prediction:
        """Predict what was asked, as ``llm-perf infer`` does.

        Raises:
            SpecError: unknown names, or settings that contradict each other.
        """
        return cls(predict_inference(build_scenario(inputs)), inputs)

    @property
    def price(self) -> Price | float | None:
        """What a GPU-hour costs; None where nothing says."""
        name = self.result.scenario.gpu.name
        asked = self.inputs
        return (
            gpu_price(name, asked.cost_per_gpu_hour, asked.prices) if asked else gpu_price(name, None, None)
        )


def prediction_view(prediction: Prediction) -> dict[str, Any]:
    """The whole view: ``cards`` for people, ``result`` for programs, ``near`` to mark among the published runs."""
    result, inputs = prediction.result, prediction.inputs
    changes = changes_that_fit(inputs, result) if inputs is not None else ()
    sections = report_sections(result, changes, prediction.nearest, prediction.price)
    measured = None if prediction.measured is None else _measured(prediction.measured, result)
    found = {
        "schema_version": SCHEMA_VERSION,
        "kind": "prediction" if prediction.measured is None else "measured run",
        "label": label(result),
        "cards": _cards(
            prediction, {name: block(part) for name, part in sections.items()}, measured, changes
        ),
        "near": _near(prediction),
        "result": None
        if inputs is None
        else result_object(result, inputs.model_dump(), changes, prediction.nearest, prediction.price),
    }
    return finite(found)  # type: ignore[no-any-return]


def _cards(
    prediction: Prediction,
    sections: dict[str, dict[str, Any]],
    measured: dict[str, Any] | None,
    changes: tuple[Change, ...],
) -> list[dict[str, Any]]:
    """What the page shows, in its order."""
    result, inputs = prediction.result, prediction.inputs
    gains = () if inputs is None else faster(inputs, result)
    drawn = figures.all_figures(result)
    alarm = [part | {"alarm": True} for part in cards.parts(sections, "does_not_fit")]
    notes = [cards.text(f"note: {note}", alarm=True) for note in prediction.notes]
    passes = [
        cards.figure(f"schedule-{number}", figure) for number, figure in enumerate(drawn["schedule"], 1)
    ]
    found = [
        cards.card(
            "answer",
            label(result),
            [
                *notes,
                cards.lines(inference_answer(result, changes, gains)),
                cards.tiles(tiles(result, prediction.price)),
                *alarm,
                *cards.parts(sections, "title", "placement", "interval", "note"),
            ],
            wide=True,
        ),
        *_comparison(prediction),
        cards.card("measured", "Measured and predicted", [] if measured is None else [measured], wide=True),
        cards.card(
            "latency",
            "Where the time goes",
            [
                cards.figure("breakdown", drawn["breakdown"]),
                *cards.parts(sections, "phases", "breakdown"),
            ],
        ),
        cards.card(
            "memory",
            "Memory",
            [cards.figure("memory", drawn["memory"]), *cards.parts(sections, "memory", "limits")],
        ),
        cards.card(
            "roofline",
            "Roofline",
            # The roofs are the GPU's: where a CPU computes a part, the figure would show what nothing reaches.
            []
            if _cpu_computes(result)
            else [cards.figure("roofline", drawn["roofline"]), *cards.parts(sections, "thresholds")],
        ),
        cards.card("front", "Throughput and latency by batch", [cards.figure("front", drawn["front"])]),
        *_service(prediction),
        cards.card("schedule", "Schedule", passes, wide=True),
        cards.card("nearest", "Nearest measured run", cards.parts(sections, "nearest")),
        cards.card("money", "Cost, energy, pipeline", cards.parts(sections, "money", "pipeline")),
        cards.card(
            "command",
            "The same on the command line",
            []
            if inputs is None
            else [
                cards.code(infer_command(inputs, [one.inputs.gpu for one in prediction.others if one.inputs]))
            ],
        ),
    ]
    return [card for card in found if card["parts"]]


def _cpu_computes(result: InferenceResult) -> bool:
    """Whether weights in host memory are multiplied there."""
    return "cpu" in system_of(result.scenario).family.resources and float(result.placement.weights.cpu) > 0


def _service(prediction: Prediction) -> list[dict[str, Any]]:
    """The card of requests over time, of what was asked with flags."""
    found = None if prediction.inputs is None else service_card(prediction.result)
    return [] if found is None else [found]


def _comparison(prediction: Prediction) -> list[dict[str, Any]]:
    """The card of the GPUs side by side, where there are others."""
    if not prediction.others:
        return []
    all_ = [prediction, *prediction.others]
    return [comparison_card([one.result for one in all_], [tiles(one.result, one.price) for one in all_])]


def label(result: InferenceResult) -> str:
    """A prediction in one line."""
    scenario, workload = result.scenario, result.scenario.workload
    where = machine_name(scenario)
    name = scenario.model.name.rpartition("/")[2]
    return f"{name} on {where}, {scenario.system}, batch {workload.batch_size}, {workload.prompt_len} + {workload.gen_len}"


def tiles(result: InferenceResult, price: Price | float | None) -> list[dict[str, Any]]:
    """The numbers that people look for first."""
    absent = result.scenario.gpu.absent
    memory = result.memory.cpu if absent else result.memory.gpu
    cost = "no price" if price is None else dollars(cost_of(result, price).per_million_tokens)
    per_token = result.tpot_s
    return [
        _tile("Fits", "yes" if result.feasible else "no", alarm=not result.feasible),
        _tile("Time to first token", seconds(result.prefill.latency_s)),
        _tile("Time per output token", "-" if per_token is None else seconds(per_token)),
        _tile("Whole batch", seconds(result.total_latency_s)),
        _tile("Throughput", rate(result.total_throughput_tokens_per_s)),
        _tile(
            "Memory of the host" if absent else "Memory of one GPU",
            f"{gib(float(memory.total_bytes))} of {gib(float(memory.capacity_bytes))}",
            alarm=not memory.fits,
        ),
        _tile("Largest batch", count(result.max_batch_size)),
        _tile("Cost of a million tokens", cost),
    ]


def _tile(name: str, value: str, alarm: bool = False) -> dict[str, Any]:
    return {"name": name, "value": value, "alarm": alarm}


def _measured(measured: Measured, result: InferenceResult) -> dict[str, Any]:
    """A table: phase, measured, predicted, signed error; as ``llm-perf compare`` counts it."""
    predicted = {
        "prefill": result.prefill.latency_s,
        "decode": None if result.decode is None else result.decode.latency_s,
        "total": result.total_latency_s,
    }
    rows = [
        [f"{phase} latency", *_pair(measured.latencies_s.get(phase), value, seconds)]
        for phase, value in predicted.items()
    ]
    if measured.peak_bytes is not None:
        rows.append(["peak memory", *_pair(measured.peak_bytes, measured.predicted_peak_bytes, gib)])
    return cards.table(("", "measured", "predicted", "error"), rows) | {
        "name": "measured",
        "text": measured.source,
    }


def _pair(measured: float | None, predicted: float | None, text: Any) -> list[str]:
    error = None if not measured or predicted is None else (predicted - measured) / measured
    return ["-" if value is None else text(value) for value in (measured, predicted)] + [
        "-" if error is None else percent(error)
    ]


def _near(prediction: Prediction) -> list[dict[str, Any]]:
    """Points to mark among the published runs: this run's own, and the nearest published one."""
    measured, found = prediction.measured, prediction.nearest
    if measured is not None and measured.latencies_s.get("total"):
        total = measured.latencies_s["total"]
        return [
            {"name": "this run", "measured_s": total, "predicted_s": prediction.result.total_latency_s,
             "text": f"{measured.source}<br>measured {seconds(total or 0.0)}, "
                     f"predicted {seconds(prediction.result.total_latency_s)}"}
        ]  # fmt: skip
    times = [quantity for quantity in (found or {}).get("quantities", ()) if quantity["unit"] == "s"]
    if found is None or not times:
        return []
    one = times[0]
    return [
        {"name": "nearest measured run", "measured_s": one["measured"], "predicted_s": one["predicted"],
         "text": f"{found['description']}<br>{one['label']}: measured {seconds(one['measured'])}, "
                 f"predicted {seconds(one['predicted'])}"}
    ]  # fmt: skip
