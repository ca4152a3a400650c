"""``llm-perf plan``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from llm_perf.cli.options import WHOLE, words_of
from llm_perf.errors import SpecError

if TYPE_CHECKING:
    from llm_perf.config.base import Spec
    from llm_perf.search.plan_question import PlanQuestion

EXIT_NOTHING_MEETS = 3


def _question() -> type[Spec]:
    from llm_perf.search.plan_question import PlanQuestion

    return PlanQuestion


def _training_question() -> type[Spec]:
    from llm_perf.search.plan_training import TrainingPlanQuestion

    return TrainingPlanQuestion


@click.command("plan")
@click.option("--model", help="Name, YAML or JSON file, Hugging Face config.json or its folder, or hub id.")
@click.option(
    "--target",
    help='Limits such as "p95 ttft<1s, tpot<50ms"; also latency, throughput>, cost, energy.  [default: none]',
)
@click.option(
    "--objective",
    help="cost, energy, gpus or throughput.  [default: cost]",
    shell_complete=words_of("objective", _question),
)
@click.option(
    "--gpus", help="Names or patterns such as 'h100*', separated by commas.  [default: all that ship]"
)
@click.option(
    "--max-gpus",
    type=WHOLE,
    help="GPUs of the whole deployment.  [default: 8; 1 with --host, 1024 with --train]",
)
@click.option("--host", help="A machine that there is, by name, file, or here: which card to add to it.")
@click.option("--train", "training", is_flag=True, help="Plan a training run: --tokens before --deadline.")
@click.option("--tokens", help="With --train: tokens of the whole run, such as 100e9.")
@click.option("--deadline", help="With --train: 30d, 12h, 2w or 90m.")
@click.option("--framework", help="With --train: megatron, fsdp, hf_trainer, unsloth, …  [default: megatron]")
@click.option("--seq-len", type=WHOLE, help="With --train: tokens per sequence.")
@click.option(
    "--global-batch-size",
    type=WHOLE,
    help="With --train: sequences per step.  [default: 4 Mi tokens; 64 sequences with --lora-rank]",
)
@click.option(
    "--precision",
    help="With --train: bf16, fp8, mxfp8, …  [default: bf16]",
    shell_complete=words_of("precision", _training_question),
)
@click.option("--lora-rank", type=WHOLE, help="With --train: train adapters of this rank.  [default: 0, off]")
@click.option(
    "--lora-targets",
    help="With --train: all, attention, qkv, qv or none.  [default: all, or the framework's]",
    shell_complete=words_of("lora_targets", _training_question),
)
@click.option(
    "--adapter",
    help="With --train: lora or dora.  [default: lora]",
    shell_complete=words_of("adapter", _training_question),
)
@click.option("--base-weight-bits", type=WHOLE, help="With --train: bits of frozen weights (QLoRA: 4).")
@click.option(
    "--base-double-quant/--no-base-double-quant",
    default=None,
    help="With --train: scales of frozen weights are quantised too.",
)
@click.option("--optimizer", help="With --train: adamw, adam8bit, lion, …  [default: adamw]")
@click.option("--rate", type=float, help="Requests per second that are to be served.")
@click.option("--requests", help="CSV or JSONL of requests that are to be served (see llm-perf simulate).")
@click.option("--concurrency", type=WHOLE, help="Requests that are to be in flight.")
@click.option("--burstiness", type=float, help="Of --rate: below 1 bursts, above 1 more even.  [default: 1]")
@click.option("--seed", type=WHOLE, help="Of what is drawn by chance.  [default: 0]")
@click.option(
    "--batching",
    help="continuous, or static: a batch that starts and ends together.  [default: continuous]",
    shell_complete=words_of("batching", _question),
)
@click.option("--prompt-len", type=WHOLE, help="Prompt tokens per sequence.  [default: 512]")
@click.option("--gen-len", type=WHOLE, help="Tokens to generate per sequence.  [default: 128]")
@click.option(
    "--system", help="Stack that holds its weights: resident, vllm, …  [default: resident; vllm of requests]"
)
@click.option(
    "--weight-format", help="Format of weights, as llm-perf infer takes it; instead of --quant-bits."
)
@click.option("--kv-format", help="Format of the KV cache.")
@click.option(
    "--quant-bits",
    help='Widths of weights to choose from, such as "16,8,4".  [default: 16]',
    shell_complete=words_of("quant_bits", _question),
)
@click.option("--max-batch-size", type=WHOLE, help="Largest batch to consider.  [default: 1024]")
@click.option(
    "--offload/--no-offload", default=None, help="Consider one GPU that streams weights.  [default: on]"
)
@click.option(
    "--pools/--no-pools",
    default=None,
    help="Consider engines that only read prompts, with --rate.  [default: on]",
)
@click.option("--prices", help="Your own list of prices per GPU-hour (YAML).")
@click.option("--profile", help="Calibrated profile: name, file, or none.")
@click.option(
    "--allow-long-context/--no-allow-long-context", default=None, help="Beyond the model's positions."
)
@click.option("--top", type=WHOLE, default=5, show_default=True, help="GPU types to show.")
@click.option("--plot", "plot_file", help="Draw the front into this .png or .svg (extra: plot).")
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object.")
def plan(top: int, plot_file: str | None, as_json: bool, training: bool, **flags: Any) -> int:
    """Find the best machines for a model under targets: GPUs, how many, how divided, batch, format, offload.

    With --rate, --requests or --concurrency the requests are simulated, and targets may name a percentile: "p95 ttft<1s".
    Without, TTFT and TPOT are those of a request while a batch is kept full; with --batching static the prefill of a whole
    batch and a decode step of it. The best of each GPU type is shown, and of batches the front of time per token against the
    objective over everything that fits.

    With --host the question is which card to add to that machine, whose CPU computes what the card does not hold (--system
    auto, llama_cpp or ktransformers): each card with its best division, one sequence at a time.

    With --train the cheapest machines for so many --tokens before a --deadline are found, with the model's division: of whole
    weights, or of adapters with --lora-rank (QLoRA: --base-weight-bits 4).

    Exits with 0, with 2 for bad input, with 3 where nothing meets the targets.
    """
    from llm_perf.cli.inputs import matching, say_versions
    from llm_perf.search import axes
    from llm_perf.search.plan import plan as search
    from llm_perf.search.plan_question import PlanQuestion
    from llm_perf.search.service import asks_for_service

    given = {name: value for name, value in flags.items() if value is not None}
    if given.get("system") == "auto" and "host" not in given:
        raise SpecError(
            "--system auto divides a model between a card and a host: say which host there is with --host"
        )
    if "model" not in given:
        raise SpecError("--model is required (llm-perf models list shows the bundled ones)")
    if top < 1:
        raise SpecError(f"--top must be 1 or more, got {top}")
    if not given.get("target", "any").strip(" ,"):
        raise SpecError(
            f'--target {given["target"]!r} limits nothing: expected such as "tpot<50ms", or no --target'
        )
    if "gpus" in given:
        names = axes.names("--gpus", given["gpus"])
        given["gpus"] = tuple(gpu for name in names for gpu in matching("--gpus", "GPU", name))
    if training:
        return _train(given, top, plot_file, as_json)
    for name in _TRAINING:
        if name in given:
            raise SpecError(f"--{name.replace('_', '-')} is of a training run: give --train")
    if "host" in given:
        return _cards(given, top, plot_file, as_json)
    if "quant_bits" in given:
        given["quant_bits"] = axes.whole_numbers("--quant-bits", given["quant_bits"])
        for bits in given["quant_bits"]:
            if bits not in (4, 8, 16):
                raise SpecError(f"quant_bits must be 4, 8 or 16, got {bits}")
        if given.get("weight_format") is not None:
            raise SpecError(
                "--quant-bits and --weight-format exclude each other: both say how weights are stored"
            )
    question = PlanQuestion(**given)
    if plot_file is not None:
        from llm_perf.report.plots.style import check_plot

        check_plot(plot_file)
    if asks_for_service(question):
        return _serve(question, top, plot_file, as_json)
    percentile = next((target for target in question.targets if target.figure != "mean"), None)
    if percentile is not None:
        raise SpecError(
            f"--target {percentile.written}: percentiles are of requests that come over time; say how they come with --rate, "
            "--requests or --concurrency"
        )
    answer = search(question, top)
    say_versions([question.system])
    if plot_file is not None:
        from llm_perf.report.plan_plot import write_plan_plot

        click.echo(f"plot written to {write_plan_plot(answer, plot_file)}", err=True)
    if as_json:
        from llm_perf.report.plan_json import plan_object

        click.echo(json.dumps(plan_object(answer), allow_nan=False))
    else:
        from llm_perf.report.inference_text import print_report
        from llm_perf.report.plan_text import plan_report

        print_report(plan_report(answer))
    return 0 if answer.best else EXIT_NOTHING_MEETS


_TRAINING = (
    "tokens", "deadline", "framework", "seq_len", "global_batch_size", "precision", "lora_rank", "lora_targets", "adapter",
    "base_weight_bits", "base_double_quant", "optimizer",
)  # fmt: skip
_OF_BOTH = ("model", "gpus", "max_gpus", "prices", "allow_long_context")


def _train(given: dict[str, Any], top: int, plot_file: str | None, as_json: bool) -> int:
    """Plan a training run."""
    from llm_perf.report.plan_training import training_plan_lines, training_plan_object
    from llm_perf.search.plan_training import TrainingPlanQuestion, plan_training

    for name in given:
        if name not in (*_TRAINING, *_OF_BOTH):
            raise SpecError(f"--{name.replace('_', '-')} is of a deployment and means nothing with --train")
    if plot_file is not None:
        raise SpecError("--plot draws the front of a deployment and means nothing with --train")
    for name in ("tokens", "deadline"):
        if name not in given:
            raise SpecError(f"--{name} is required with --train")
    answer = plan_training(TrainingPlanQuestion(**given), top)
    if as_json:
        click.echo(json.dumps(training_plan_object(answer), allow_nan=False))
    else:
        for line in training_plan_lines(answer):
            click.echo(line)
    return 0 if answer.best else EXIT_NOTHING_MEETS


def _serve(question: PlanQuestion, top: int, plot_file: str | None, as_json: bool) -> int:
    """Plan for requests that come over time."""
    from llm_perf.cli.inputs import say_versions
    from llm_perf.search.service import plan_service

    if plot_file is not None:
        raise SpecError("--plot draws the front of batches: leave --rate, --requests and --concurrency out")
    answer = plan_service(question, top)
    say_versions([question.system])
    if as_json:
        from llm_perf.report.service_json import service_object

        click.echo(json.dumps(service_object(answer), allow_nan=False))
    else:
        from llm_perf.report.inference_text import print_report
        from llm_perf.report.service_text import service_report

        print_report(service_report(answer))
    return 0 if answer.best else EXIT_NOTHING_MEETS


def _cards(given: dict[str, Any], top: int, plot_file: str | None, as_json: bool) -> int:
    """Which card to add to a host."""
    from llm_perf.cli.inputs import say_versions
    from llm_perf.search.cards import CardsQuestion, find_cards

    known = set(CardsQuestion.model_fields)
    foreign = sorted(name for name in given if name not in known)
    if foreign or plot_file is not None:
        flag = "--plot" if plot_file is not None else f"--{foreign[0].replace('_', '-')}"
        raise SpecError(
            f"{flag} goes without --host: a card for a host is looked for with one sequence at a time"
        )
    question = CardsQuestion(**given)
    answer = find_cards(question, top)
    say_versions(question.of_card("none", 1).systems)
    if as_json:
        from llm_perf.report.cards_text import cards_object

        click.echo(json.dumps(cards_object(answer), allow_nan=False))
    else:
        from llm_perf.report.cards_text import cards_report
        from llm_perf.report.inference_text import print_report

        print_report(cards_report(answer))
    return 0 if answer.met else EXIT_NOTHING_MEETS
