"""``llm-perf train``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from llm_perf.analysis.advice import Change
from llm_perf.analysis.economics import gpu_price
from llm_perf.analysis.trainer_files import TrainerFile, read_trainer_file
from llm_perf.analysis.training import TrainingResult, predict_training
from llm_perf.analysis.training_advice import training_changes_that_fit
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.analysis.training_speedups import faster_training
from llm_perf.cli.answers import Answered, exit_code, print_json, write_results
from llm_perf.cli.inputs import questions
from llm_perf.cli.options import with_options
from llm_perf.errors import SpecError

if TYPE_CHECKING:
    from llm_perf.report.explain import Explanation


@click.command("train")
@with_options(TrainingInputs)
@click.option(
    "--config", "config_file", help="YAML or JSON of inputs, or an earlier --json output, to replay."
)
@click.option(
    "--trainer-config",
    help="A trainer's own file: DeepSpeed JSON, Hugging Face TrainingArguments, axolotl or LLaMA-Factory YAML, "
    "a torchtune recipe, Megatron-LM arguments. Flags win over it.",
)
@click.option("--output-dir", help="Write the JSON result into this folder.")
@click.option("--explain", is_flag=True, help="Show each number's formula with the values in it.")
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object.")
def train(
    gpus: tuple[str, ...],
    config_file: str | None,
    trainer_config: str | None,
    output_dir: str | None,
    explain: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Predict training: what fits, how long a step takes, what it waits for, and what a whole run costs.

    Of micro-batch, accumulation and global batch any two give the third; what is left open is the largest that fits.
    Exits with 0, with 2 for bad input, with 3 where it does not fit (on none of the GPUs).
    """
    given = {name: value for name, value in flags.items() if value is not None}
    trainer = None if trainer_config is None else read_trainer_file(trainer_config)
    if trainer is not None:
        if config_file is not None:
            raise SpecError("--trainer-config and --config are two files of inputs: give one")
        given = _beside(trainer.inputs, given)
    answers = [_Answer(question, trainer) for question in questions(gpus, config_file, given, TrainingInputs)]
    if output_dir is not None:
        write_results(answers, output_dir)
    if as_json:
        print_json(answers, explain)
    else:
        _print_text(answers, explain)
    return exit_code(answers)


class _Answer(Answered):
    """A question, its prediction, and what the reports add to it."""

    result: TrainingResult

    def __init__(self, question: TrainingInputs, trainer: TrainerFile | None = None) -> None:
        self.question, self.trainer = question, trainer
        self.result = predict_training(build_training_scenario(question))
        self.price = gpu_price(self.result.scenario.gpu.name, question.cost_per_gpu_hour, question.prices)

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """What would make it fit."""
        return training_changes_that_fit(self.question, self.result)

    @cached_property
    def json(self) -> dict[str, Any]:
        """The whole answer as plain JSON types."""
        from llm_perf.report.training_json import training_object

        found = training_object(self.result, self.question.model_dump(), self.changes, self.price)
        if self.trainer is not None:
            found["trainer_config"] = {"kind": self.trainer.kind, "unused": list(self.trainer.unused)}
        return found

    @property
    def explanations(self) -> Sequence[Explanation]:
        """Each number with its formula."""
        from llm_perf.report.training_explain import training_explanations

        return training_explanations(self.result)

    @property
    def file_name(self) -> str:
        """GPU, model and batch to read, and a digest."""
        from llm_perf.cli import output

        return output.training_result_name(self.result, self.json["inputs"])


def _beside(read: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """A trainer file's inputs with the flags, which win: also over what they would contradict."""
    kept = {name: value for name, value in read.items() if name not in flags}
    batch = ("micro_batch_size", "gradient_accumulation_steps", "global_batch_size")
    if sum(name in flags for name in batch) == 2:
        kept = {name: value for name, value in kept.items() if name not in batch}
    return kept | flags


def _print_text(answers: list[_Answer], explain: bool) -> None:
    from llm_perf.report import training_text as text
    from llm_perf.report.answer import quickest_of
    from llm_perf.report.inference_text import print_report

    if len(answers) == 1:
        answer = answers[0]
        gains = faster_training(answer.question, answer.result)
        print_report(
            text.training_report(answer.result, answer.changes, answer.price, gains, answer.question)
        )
    else:
        results = [answer.result for answer in answers]
        best = answers[results.index(quickest_of(results))]
        gains = faster_training(best.question, best.result)
        prices = [answer.price for answer in answers]
        print_report(text.training_comparison(results, prices, best.changes, gains))
    if answers[0].trainer is not None:
        click.echo(f"trainer file: {answers[0].trainer.note}")
    if explain:
        for answer in answers:
            print_report(text.training_explanation(answer.result))
