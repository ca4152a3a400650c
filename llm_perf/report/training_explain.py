"""Each number of a training prediction with its formula and the values in it, as plain arithmetic that gives the value."""

from __future__ import annotations

from llm_perf.analysis.training import TrainingResult
from llm_perf.config.base import GIB
from llm_perf.counts.flops import attention_core_flops
from llm_perf.counts.parameters import total_params
from llm_perf.report.explain import Explanation, explained, explained_terms
from llm_perf.systems.training.base import PHASES


def training_explanations(result: TrainingResult) -> list[Explanation]:
    """The numbers of a prediction in the order in which they follow from one another."""
    memory = [explained(quantity) for quantity in result.quantities]
    return [
        *_counts(result),
        *memory,
        *_phases(result),
        *explained_terms({"step": result.terms}, _title),
        *_times(result),
    ]


def _phases(result: TrainingResult) -> list[Explanation]:
    """One GPU's bytes in every phase as the sum of its terms."""
    found = []
    for phase in PHASES:
        moment = result.memory.at(phase)
        terms = [(term.name, float(term.size_bytes)) for term in moment.terms]
        names = " + ".join(f"{name} ({size / GIB:,.2f} GiB)" for name, size in terms)
        whole = sum(size for _, size in terms)
        expression = " + ".join(repr(size) for _, size in terms) or "0.0"
        name = f"one GPU, {phase}" + (
            f", stage {moment.stage + 1}" if result.scenario.parallelism.pp_size > 1 else ""
        )
        found.append(Explanation(name, names, expression, whole, "bytes"))
    return found


def _counts(result: TrainingResult) -> list[Explanation]:
    scenario, batch = result.scenario, result.batch
    tokens = batch.global_batch_size * scenario.plan.seq_len
    core = float(attention_core_flops(scenario.model, batch.global_batch_size, scenario.plan.seq_len))
    passes = 2 if scenario.plan.lora_rank else 3
    linear = (result.model_flops_per_step - 3 * core) / passes
    p = scenario.parallelism
    return [
        Explanation(
            "parameters",
            "each stored weight once",
            f"{total_params(scenario.model)}",
            total_params(scenario.model),
            "",
        ),
        Explanation(
            "global batch",
            "micro-batch x accumulation x replicas",
            f"{batch.micro_batch_size} * {batch.gradient_accumulation_steps} * {p.dp_size}",
            batch.global_batch_size,
            "sequences",
        ),
        Explanation(
            "tokens per step",
            "global batch x sequence length",
            f"{batch.global_batch_size} * {scenario.plan.seq_len}",
            tokens,
            "",
        ),
        Explanation(
            "model FLOPs per step",
            "passes x 2 per weight and token, 3 passes of attention over the whole square",
            f"{passes} * {linear!r} + 3 * {core!r}",
            result.model_flops_per_step,
            "FLOP",
            "PaLM, arXiv 2204.02311, appendix B",
        ),
    ]


def _times(result: TrainingResult) -> list[Explanation]:
    parts = " + ".join(repr(spent) for spent in result.breakdown_s.values())
    step, gpus = result.step_time_s, result.scenario.num_gpus
    tokens = result.batch.global_batch_size * result.scenario.plan.seq_len
    return [
        Explanation("step", "sum of what is waited for: " + ", ".join(result.breakdown_s), parts, step, "s"),
        Explanation(
            "throughput",
            "tokens per step / step",
            f"{tokens} / {step!r}",
            result.throughput_tokens_per_s,
            "token/s",
        ),
        Explanation(
            "MFU",
            "model FLOPs / (step x GPUs x peak)",
            f"{result.model_flops_per_step!r} / ({step!r} * {gpus} * {result.peak_flops_per_s!r})",
            result.mfu,
            "",
        ),
    ]


def _title(part: str) -> str:
    return part.replace("_", " ")
