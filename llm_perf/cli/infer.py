"""``llm-perf infer``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llm_perf.analysis.advice import Change, changes_that_fit
from llm_perf.analysis.economics import gpu_price
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.speedups import faster
from llm_perf.cli.answers import Answered, exit_code, print_json, write_results
from llm_perf.cli.inputs import questions
from llm_perf.cli.options import with_options
from llm_perf.errors import OutputError, SpecError

if TYPE_CHECKING:
    from llm_perf.report.explain import Explanation


@click.command("infer")
@with_options(InferenceInputs)
@click.option(
    "--config", "config_file", help="YAML or JSON of inputs, or an earlier --json output, to replay."
)
@click.option("--log-file", help='Append the benchmark log to this file; "auto" names it.')
@click.option("--output-dir", help="Write the JSON result into this folder.")
@click.option("--trace", "trace_file", help="Write the schedule as a Chrome/Perfetto trace.")
@click.option("--explain", is_flag=True, help="Show each number's formula with the values in it.")
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object.")
def infer(
    gpus: tuple[str, ...],
    config_file: str | None,
    log_file: str | None,
    output_dir: str | None,
    trace_file: str | None,
    explain: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Predict one inference: where tensors go, what fits, how long, and what bounds it.

    Exits with 0, with 2 for bad input, with 3 where it does not fit (on none of the GPUs).
    """
    given = {name: value for name, value in flags.items() if value is not None}
    answers = [_Answer(question) for question in questions(gpus, config_file, given, InferenceInputs)]
    _write(answers, log_file, output_dir)
    if trace_file is not None:
        _write_trace(answers, Path(trace_file))
    if as_json:
        print_json(answers, explain)
    else:
        _print_text(answers, explain)
    return exit_code(answers)


class _Answer(Answered):
    """A question, its prediction, and what the reports add to it."""

    result: InferenceResult

    def __init__(self, question: InferenceInputs) -> None:
        self.question = question
        self.result = predict_inference(build_scenario(question))
        self.price = gpu_price(self.result.scenario.gpu.name, question.cost_per_gpu_hour, question.prices)

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """What would make it fit."""
        return changes_that_fit(self.question, self.result)

    @cached_property
    def nearest(self) -> dict[str, Any] | None:
        """The nearest measured run."""
        from calibrate.evidence.nearest import nearest_run

        return nearest_run(self.result)

    @cached_property
    def json(self) -> dict[str, Any]:
        """The whole answer as plain JSON types."""
        from llm_perf.report.inference_json import result_object

        return result_object(self.result, self.question.model_dump(), self.changes, self.nearest, self.price)

    @property
    def explanations(self) -> Sequence[Explanation]:
        """Each number with its formula."""
        from llm_perf.report.explain import explanations

        return explanations(self.result)

    @property
    def file_name(self) -> str:
        """GPU and configuration to read, and a digest."""
        from llm_perf.cli import output

        return output.result_name(self.result, self.json["inputs"])


def _write(answers: list[_Answer], log_file: str | None, output_dir: str | None) -> None:
    """Write the files that were asked for, and say where they are."""
    if log_file is None and output_dir is None:
        return
    from llm_perf.cli import output

    if log_file is not None:
        output.check_log(log_file)
    if output_dir is not None:
        write_results(answers, output_dir)
    if log_file is not None:
        for path in output.write_logs(log_file, [answer.result for answer in answers]):
            click.echo(f"benchmark log appended to {path}", err=True)


def _write_trace(answers: list[_Answer], file: Path) -> None:
    """The schedule of one prediction as a trace file."""
    from llm_perf.cli import output
    from llm_perf.report.trace import prediction_trace

    if len(answers) > 1:
        raise SpecError("--trace shows one prediction: give one --gpu")
    if not file.name.strip():
        raise OutputError(f"--trace '{file}' is no file")
    for path in output.write_files(file.parent, {file.name: prediction_trace(answers[0].result)}):
        click.echo(f"trace written to {path}", err=True)


def _columns() -> int | None:
    """Columns of the terminal that the report is read on; None where it is none."""
    if not sys.stdout.isatty():
        return None
    from shutil import get_terminal_size

    return get_terminal_size().columns


def _print_text(answers: list[_Answer], explain: bool) -> None:
    from llm_perf.report import inference_text as text
    from llm_perf.report.answer import quickest_of
    from llm_perf.systems import system_of

    results = [answer.result for answer in answers]
    if len(answers) == 1:
        answer = answers[0]
        gains = faster(answer.question, answer.result)
        text.print_report(
            text.inference_report(
                answer.result, answer.changes, answer.nearest, answer.price, gains, answer.question
            )
        )
        if system_of(answer.result.scenario).family.benchmark_log:
            click.echo(text.log_section(answer.result, _columns()))
    else:
        best = answers[results.index(quickest_of(results))]
        gains = faster(best.question, best.result)
        prices = [answer.price for answer in answers]
        text.print_report(text.comparison_report(results, prices, best.changes, gains))
    if explain:
        for result in results:
            text.print_report(text.explanation_report(result))
