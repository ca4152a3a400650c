"""``llm-perf infer``."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from llm_perf.analysis.advice import Change, changes_that_fit
from llm_perf.analysis.economics import gpu_price
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.cli.inputs import questions
from llm_perf.errors import OutputError, SpecError

EXIT_DOES_NOT_FIT = 3


def _option(*names: str, **settings: Any) -> Any:
    return click.option(*names, **settings)


_OPTIONS = (
    _option("--model", help="Name, YAML or JSON file, Hugging Face config.json or its folder, or hub id."),
    _option(
        "--gpu",
        "gpus",
        multiple=True,
        help="Name or file; repeat it to compare several. A profile's machine if not given.",
    ),
    _option("--host", help="Name or file; the GPU's usual host if not given."),
    _option(
        "--system",
        help="resident, zero_inference, fastertransformer or another; as --ds-zero says if not given.",
    ),
    _option("--num-gpus", type=int, help="GPUs per node."),
    _option("--num-nodes", type=int, help="Nodes.  [default: 1]"),
    _option("--batch-size", type=int, help="Sequences over all GPUs.  [default: 1]"),
    _option("--prompt-len", type=int, help="Prompt tokens per sequence.  [default: 512]"),
    _option("--gen-len", type=int, help="Tokens to generate per sequence.  [default: 32]"),
    _option("--ds-zero", type=int, help="DeepSpeed ZeRO stage; 3 is ZeRO-Inference.  [default: 0]"),
    _option("--tp-size", type=int, help="Tensor-parallel ranks."),
    _option("--pp-size", type=int, help="Pipeline stages."),
    _option("--dp-size", type=int, help="Data-parallel replicas."),
    _option("--ep-size", type=int, help="Expert-parallel ranks."),
    _option("--sp-size", type=int, help="Sequence-parallel ranks: 1 or tp-size.  [default: 1]"),
    _option("--cp-size", type=int, help="Ranks that share each sequence's tokens (context parallel)."),
    _option("--expert-imbalance", type=float, help="Busiest expert rank over the mean.  [default: 1]"),
    _option("--prefix-hit-rate", type=float, help="Share of each prompt in a prefix cache.  [default: 0]"),
    _option("--prefill-chunk", type=int, help="Tokens of each prompt per pass (chunked prefill)."),
    _option("--draft-model", help="Speculative decoding: the model that drafts tokens."),
    _option("--draft-tokens", type=int, help="Tokens drafted per round.  [default: 4]"),
    _option(
        "--acceptance-rate", type=float, help="Accepted over drafted tokens, as engines print it; no default."
    ),
    _option(
        "--token-acceptance",
        type=float,
        help="Instead: chance of a drafted token if those before it were kept.",
    ),
    _option(
        "--weight-format", help="auto (as released), fp16, fp8, awq, nf4, mxfp4, q4_k_m, ...  [default: auto]"
    ),
    _option(
        "--kv-format", help="Format of the KV cache: auto, fp16, fp8, int8, q8_0, q4_0, ...  [default: auto]"
    ),
    _option(
        "--weight-bits",
        type=int,
        help="Bits per stored weight, all matrices alike; as released if not given.",
    ),
    _option("--activation-bits", type=int, help="Bits per activation.  [default: 16]"),
    _option("--kv-bits", type=int, help="Bits per KV cache element; as activations if not given."),
    _option("--quant-bits", type=int, help="Quantise weights to 4 or 8 bits in groups (16: not)."),
    _option("--quant-group-size", type=int, help="Weights that share a scale and a minimum.  [default: 64]"),
    _option("--cpu-offload/--no-cpu-offload", default=None, help="Weights in CPU memory."),
    _option("--disk-offload/--no-disk-offload", default=None, help="Weights on NVMe."),
    _option("--kv-offload/--no-kv-offload", default=None, help="KV cache in CPU memory."),
    _option(
        "--pin-memory/--no-pin-memory",
        default=None,
        help="Page-locked host memory for weights.  [default: on]",
    ),
    _option("--pin-kv-cache/--no-pin-kv-cache", default=None, help="Page-locked KV cache.  [default: on]"),
    _option("--async-kv-offload/--no-async-kv-offload", default=None, help="Non-blocking KV copies."),
    _option("--prefetch/--no-prefetch", default=None, help="Fetch the next weights early.  [default: on]"),
    _option("--percent", help='FlexGen: "wg wc cg cc hg hc", weights, cache, hidden on GPU and CPU.'),
    _option("--gpu-batch-size", type=int, help="FlexGen: sequences per GPU batch."),
    _option("--num-gpu-batches", type=int, help="FlexGen: GPU batches per block."),
    _option("--compress-weight/--no-compress-weight", default=None, help="FlexGen: weights in 4 bits."),
    _option("--compress-cache/--no-compress-cache", default=None, help="FlexGen: cache in 4 bits."),
    _option("--cpu-cache-compute/--no-cpu-cache-compute", default=None, help="FlexGen: attention on CPU."),
    _option("--overlap/--no-overlap", default=None, help="Copy and compute at once.  [default: on]"),
    _option("--attn-sparsity", type=float, help="FlexGen: share of values that attention reads."),
    _option(
        "--micro-batches",
        type=int,
        help="Parts of a batch that fill a pipeline; FlexGen: its stages if not given.",
    ),
    _option("--flops-efficiency", type=float, help="Share of peak FLOP/s, instead of the GPU's table."),
    _option(
        "--hbm-memory-efficiency", type=float, help="Share of memory bandwidth, instead of the GPU's table."
    ),
    _option("--cost-per-gpu-hour", type=float, help="US dollars, instead of the list's."),
    _option("--prices", help="Your own list of prices per GPU-hour (YAML); the bundled one if not given."),
    _option("--profile", help="Calibrated profile: name, file, or none."),
    _option(
        "--allow-long-context/--no-allow-long-context", default=None, help="Beyond the model's positions."
    ),
)


def _with_options(function: Any) -> Any:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command("infer")
@_with_options
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
        _print_json(answers, explain)
    else:
        _print_text(answers, explain)
    return 0 if any(answer.result.feasible for answer in answers) else EXIT_DOES_NOT_FIT


class _Answer:
    """A question, its prediction, and what the reports add to it."""

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
        from calibrate.nearest import nearest_run

        return nearest_run(self.result)

    @cached_property
    def json(self) -> dict[str, Any]:
        """The whole answer as plain JSON types."""
        from llm_perf.report.inference_json import result_object

        return result_object(self.result, self.question.model_dump(), self.changes, self.nearest, self.price)


def _write(answers: list[_Answer], log_file: str | None, output_dir: str | None) -> None:
    """Write the files that were asked for, and say where they are."""
    if log_file is None and output_dir is None:
        return
    from llm_perf.cli import output

    if log_file is not None:
        output.check_log(log_file)
    if output_dir is not None:
        if not output_dir:
            raise OutputError("--output-dir '' is no folder")
        texts = {
            output.result_name(answer.result, answer.json["inputs"]): _dumped(answer.json, indent=1)
            for answer in answers
        }
        for path in output.write_files(Path(output_dir), texts):
            click.echo(f"result written to {path}", err=True)
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


def _dumped(found: dict[str, Any], indent: int | None = None) -> str:
    return json.dumps(found, indent=indent, allow_nan=False) + "\n"


def _print_json(answers: list[_Answer], explain: bool) -> None:
    objects = [answer.json | _explained(answer.result) if explain else answer.json for answer in answers]
    several = {"schema_version": objects[0]["schema_version"], "comparison": objects}
    click.echo(_dumped(objects[0] if len(objects) == 1 else several), nl=False)


def _explained(result: InferenceResult) -> dict[str, Any]:
    from llm_perf.report.explain import explanations

    return {"explanations": [entry.as_dict() for entry in explanations(result)]}


def _print_text(answers: list[_Answer], explain: bool) -> None:
    from llm_perf.report import inference_text as text

    results = [answer.result for answer in answers]
    if len(answers) == 1:
        answer = answers[0]
        text.print_report(text.inference_report(answer.result, answer.changes, answer.nearest, answer.price))
        click.echo(text.log_section(answer.result))
    else:
        text.print_report(text.comparison_report(results))
    if explain:
        for result in results:
            text.print_report(text.explanation_report(result))
