"""A training prediction as text for people: what was asked, what fits, how long a step takes and where its time goes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_perf.analysis.advice import Change
from llm_perf.analysis.speedups import Gain
from llm_perf.analysis.training import TrainingResult
from llm_perf.analysis.training_economics import training_cost, training_energy
from llm_perf.analysis.training_request import TrainingInputs
from llm_perf.analysis.tuning_intervals import LEVEL
from llm_perf.config.economics import Price
from llm_perf.report.answer import (
    Answer,
    change_line,
    gain_pieces,
    interval_pieces,
    quickest_of,
    several_answer,
    side_by_side,
    used_of,
)
from llm_perf.report.assumed_text import meant_names, said_of_machine
from llm_perf.report.inference_text import inherited_text, interval_text, version_text
from llm_perf.report.memory_text import explanation, memory_table
from llm_perf.report.training_explain import training_explanations
from llm_perf.report.units import brief, count, days, gib, rate, seconds, some, tokens
from llm_perf.systems.training.base import PHASES

TRAINING_PARTS = {
    "forward": "forward pass",
    "backward": "backward pass",
    "recompute": "recomputation",
    "head": "LM head and loss",
    "tensor_parallel": "tensor-parallel exchange",
    "expert_parallel": "expert all-to-all",
    "context_parallel": "context-parallel exchange",
    "pipeline_transfer": "transfers between stages",
    "pipeline_bubble": "pipeline bubble",
    "weight_gather": "gathering weights (exposed)",
    "gradient_reduction": "reducing gradients (exposed)",
    "offload": "copies to host or NVMe (exposed)",
    "optimizer": "optimizer",
    "framework": "framework (exposed)",
    "stragglers": "waiting for stragglers",
    "power_limit": "slowed by the power limit",
}
_SHOWN_SHARE = 5e-4
"""Parts that round to 0.0 % are left out of the text (the JSON has them)."""


def training_report(
    result: TrainingResult,
    changes: tuple[Change, ...] = (),
    price: Price | float | None = None,
    gains: tuple[Gain, ...] = (),
    asked: TrainingInputs | None = None,
) -> RenderableType:
    """The whole report of one prediction, readable at 80 columns: the answer in five lines, then what it rests on.

    ``asked`` is the question, whose names may be those of others than what answers them.
    """
    blocks = [
        training_answer(result, changes, gains).text,
        *training_sections(result, changes, price, asked).values(),
    ]
    return Group(*[Padding(block, (0, 0, 1, 0)) for block in blocks])


def training_sections(
    result: TrainingResult,
    changes: tuple[Change, ...] = (),
    price: Price | float | None = None,
    asked: TrainingInputs | None = None,
) -> dict[str, Text | Table]:
    """The report's parts by name, in its order, below the answer. A part that a prediction has nothing for is left out."""
    found: dict[str, Text | Table | None] = {
        "title": _title(result, asked),
        "does_not_fit": None if result.feasible else _does_not_fit(result, changes),
        "figures": _figures(result),
        "interval": interval_text(result.interval, result.no_interval, "step"),
        "memory": memory_table(result.memory, empty=False),
        "phases": _phases(result),
        "breakdown": _breakdown(result),
        "run": _run(result),
        "money": _money(result, price),
    }
    for number, warning in enumerate(result.warnings, start=1):
        found[f"note {number}"] = Text.assemble(("note: ", "yellow"), warning)
    return {name: part for name, part in found.items() if part is not None}


def verdict(result: TrainingResult) -> str:
    """Whether it fits: yes, no, or likely where the interval of the peak reaches past what is usable."""
    if not result.feasible:
        return "no"
    return "likely" if result.may_not_fit else "yes"


def training_answer(
    result: TrainingResult, changes: tuple[Change, ...] = (), gains: tuple[Gain, ...] = ()
) -> Answer:
    """What a prediction says, in five lines."""
    parts = sorted(result.breakdown_s.items(), key=lambda item: -item[1])
    fits = [f"no. {result.reason}"]
    if result.feasible:
        fits = [used_of(result.memory, verdict(result))]
        fits.append(f"the {LEVEL:.0%} interval reaches {gib(result.memory_interval_bytes[1])}")
    were = "" if result.feasible else "if it did: "
    run = [] if result.run is None else [f"{tokens(result.run.num_tokens)} in {days(result.run.days)}"]
    return Answer(
        fits=fits,
        speed=[
            f"{were}{rate(result.throughput_tokens_per_s)}",
            *run,
            f"{brief(result.step_time_s)} a step",
            f"MFU {result.mfu:.1%}",
        ],
        sure=interval_pieces(result.interval, result.no_interval, "step"),
        bound=[
            f"{TRAINING_PARTS[part]} {spent / result.step_time_s:.0%} of the step"
            for part, spent in parts[:3]
        ],
        change=gain_pieces(gains, "recomputation, sharding, precision")
        if result.feasible
        else change_line(changes),
        good=result.feasible,
    )


def _title(result: TrainingResult, asked: TrainingInputs | None) -> Text:
    scenario, plan, p = result.scenario, result.scenario.plan, result.scenario.parallelism
    gpus = scenario.num_gpus
    where = scenario.gpu.name if gpus == 1 else f"{gpus} x {scenario.gpu.name}"
    text = Text.assemble(("Training ", ""), (scenario.model.name, "bold"), " on ", (where, "bold"))
    text.append(f" (host {scenario.host.name})")
    sizes = (
        ("tp", p.tp_size),
        ("pp", p.pp_size),
        ("chunks", plan.virtual_stages),
        ("cp", p.cp_size),
        ("dp", p.dp_size),
        ("ep", p.ep_size),
    )
    shown = [f"{name} {size}" for name, size in sizes if size > 1]
    shown += [f"ZeRO-{plan.ds_zero.value}"] if plan.ds_zero.value else []
    text.append("\n" + "; ".join([f"framework {scenario.framework}", *shown, plan.precision, plan.optimizer]))
    if result.version is not None:
        named = version_text(scenario.framework, result.version)
        text.append(f"\nconstants as of {named}{inherited_text(result.inherits)}")
    level = plan.activation_recomputation
    kinds = [f"recomputation {level.name.lower()}"] if level.value else []
    kinds += [f"recomputation of {', '.join(plan.recompute_modules)}"] if plan.recompute_modules else []
    kinds += [f"CUDA graphs of {plan.cuda_graphs}"] if plan.cuda_graphs != "none" else []
    kinds += ["attention in 8 bits"] if plan.fp8_attention else []
    kinds += ["fused experts"] if plan.fused_experts else []
    kinds += ["experts' exchange overlapped"] if plan.moe_overlap else []
    name = "DoRA" if plan.adapter == "dora" else "LoRA"
    kinds += [f"{name} rank {plan.lora_rank} on {plan.lora_targets}"] if plan.lora_rank else []
    kinds += [f"{plan.loss} loss"] if plan.loss else []
    kinds += ["compiled"] if plan.compile else []
    kinds += ["optimizer in the backward pass"] if plan.optimizer_in_backward else []
    kinds += [f"base weights {plan.base_weight_bits} bit"] if plan.base_weight_bits else []
    moved = (
        ("optimizer", plan.optimizer_device),
        ("weights", plan.weights_device),
        ("activations", plan.activations_device),
    )
    kinds += [f"{what} on {device}" for what, device in moved if device != "gpu"]
    kinds += [plan.offload_overlap] if plan.offload_overlap != "none" else []
    if kinds:
        text.append("\n" + "; ".join(kinds))
    batch = result.batch
    text.append(
        f"\n{batch.micro_batch_size} sequences x {batch.gradient_accumulation_steps} passes x {p.dp_size} replicas = "
        f"{count(batch.global_batch_size)} sequences of {count(plan.seq_len)} tokens per step"
    )
    names = () if asked is None else meant_names(asked, scenario.model, scenario.gpu)
    for line in (*names, *said_of_machine(scenario.gpu, scenario.host, scenario.num_nodes, asked)):
        text.append(f"\n{line}")
    return text


def _figures(result: TrainingResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    table.add_column("", justify="left")
    table.add_column("", justify="right")
    table.add_row("step", seconds(result.step_time_s), style="bold")
    table.add_row("throughput", rate(result.throughput_tokens_per_s))
    table.add_row("  per GPU", rate(result.throughput_tokens_per_s_per_gpu))
    table.add_row("model FLOP/s per GPU", f"{result.model_flops_per_s_per_gpu / 1e12:,.0f} TFLOP/s")
    table.add_row(f"MFU ({result.peak_dtype} peak)", f"{result.mfu:.1%}")
    if result.hardware_flops_per_step > result.model_flops_per_step:
        table.add_row("HFU, recomputation counted", f"{result.hfu:.1%}")
    return table


def _phases(result: TrainingResult) -> Text:
    """When a GPU holds how much, which moment decides, and how far a measured peak may be off."""
    sizes = [f"{phase} {gib(float(result.memory.at(phase).parts.total_bytes))}" for phase in PHASES]
    binding = result.memory.binding
    where = f" on pipeline stage {binding.stage + 1}" if result.scenario.parallelism.pp_size > 1 else ""
    low, high = result.memory_interval_bytes
    text = Text("memory by phase: " + ", ".join(sizes))
    text.append(
        f"\nfullest: {binding.phase}{where}; {LEVEL:.0%} interval of the peak {gib(low)} to {gib(high)}"
    )
    if result.may_not_fit:
        text.append("\nIt may not fit: the interval reaches past what is usable.", "yellow")
        text.append(_what_decides(result))
    return text


def _what_decides(result: TrainingResult) -> str:
    """Which part of a full memory is the largest that a setting changes, and the micro-batch that fits in any case."""
    parts, batch = result.memory.binding.parts, result.batch
    sizes = [(float(getattr(parts, name)), title) for name, title in parts.uses.items()]
    size, title = max(sizes)
    said = f" The largest part is {title} ({gib(size)})"
    chosen = result.scenario.plan.micro_batch_size is None
    said += (
        f"; the micro-batch of {count(batch.micro_batch_size)} is the largest that is predicted to fit."
        if chosen and batch.micro_batch_size == result.max_micro_batch_size
        else "."
    )
    if 0 < result.sure_micro_batch_size < batch.micro_batch_size:
        return f"{said} The whole interval fits with --micro-batch-size {result.sure_micro_batch_size}."
    return said


def _breakdown(result: TrainingResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("where the time goes")
    table.add_column("one step", justify="right")
    table.add_column("", justify="right")
    for part, spent in sorted(result.breakdown_s.items(), key=lambda item: -item[1]):
        if spent / result.step_time_s >= _SHOWN_SHARE:
            table.add_row(TRAINING_PARTS[part], seconds(spent), f"{spent / result.step_time_s:.1%}")
    return table


def _run(result: TrainingResult) -> Text:
    text = Text("Largest micro-batch that fits: ")
    text.append(count(result.max_micro_batch_size), "bold")
    text.append(".")
    run = result.run
    if run is not None:
        steps = "a part of one step" if run.num_steps < 1 else f"{count(run.num_steps)} steps"
        text.append(f"\n{run.num_tokens:.4g} tokens: {steps}, ")
        text.append(days(run.days), "bold")
        text.append(f", {some(run.gpu_hours)} GPU-hours.")
    return text


def _money(result: TrainingResult, price: Price | float | None) -> Text | None:
    lines = []
    if price is not None:
        cost = training_cost(result, price)
        dated = f" ({cost.price.source}, {cost.price.date})" if cost.price is not None else ""
        whole = "" if cost.run is None else f"${some(cost.run)} for the run, "
        lines.append(
            f"Cost: {whole}${cost.per_million_tokens:.4g} per million tokens, at ${cost.per_gpu_hour:g} per GPU-hour{dated}."
        )
    energy = training_energy(result)
    if energy is not None:
        whole = "" if energy.run_j is None else f"{energy.run_j / 3.6e9:,.3g} MWh for the run, "
        lines.append(
            f"Energy: {whole}{energy.j_per_token:.3g} J per token; "
            f"one GPU draws {energy.power_w:.0f} W (from TDP and utilisation)."
        )
    return Text("\n".join(lines)) if lines else None


def _does_not_fit(result: TrainingResult, changes: tuple[Change, ...]) -> Text:
    text = Text.assemble(("Does not fit. ", "bold red"), f"{result.reason}.")
    if not changes:
        text.append(
            "\nNo change of batch, recomputation, ZeRO stage, offload or GPU count was found that fits."
        )
        return text
    text.append("\nWhat fits: ")
    text.append(changes[0].text, "bold")
    for change in changes[1:]:
        text.append(f"\n       or: {change.text}")
    return text


def training_comparison(
    results: list[TrainingResult],
    prices: Sequence[Price | float | None] = (),
    changes: tuple[Change, ...] = (),
    gains: tuple[Gain, ...] = (),
) -> RenderableType:
    """Several GPUs side by side, the answer first, then one row each, and what is missing where it does not fit."""
    rows = [
        {
            "step": brief(result.step_time_s),
            "throughput": rate(result.throughput_tokens_per_s),
            "MFU": f"{result.mfu:.1%}",
            "memory": gib(float(result.memory.gpu.total_bytes)),
            "fits": verdict(result),
        }
        for result in results
    ]
    costs = [
        None if price is None else training_cost(result, price).per_million_tokens
        for result, price in zip(results, prices, strict=False)
    ]
    likely = [result.scenario.gpu.name for result in results if verdict(result) == "likely"]
    one = training_answer(quickest_of(results), changes, gains)
    return side_by_side(several_answer(results, one, costs, likely), results, rows)


def training_explanation(result: TrainingResult) -> RenderableType:
    """Each number with its formula, the values in it, and where they come from."""
    return explanation(result.scenario.gpu.name, training_explanations(result))
