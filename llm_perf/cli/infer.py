"""``llm-perf infer``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from llm_perf.analysis.advice import changes_that_fit
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config import files
from llm_perf.errors import OutputError, SpecError

EXIT_DOES_NOT_FIT = 3


def _option(*names: str, **settings: Any) -> Any:
    return click.option(*names, **settings)


_OPTIONS = (
    _option("--model", help="Name, YAML or JSON file, Hugging Face config.json or its folder, or hub id."),
    _option("--gpu", "gpus", multiple=True, help="Name or file; repeat it to compare several."),
    _option("--host", help="Name or file; the GPU's usual host if not given."),
    _option(
        "--system", help="resident, zero_inference, fastertransformer, …; chosen by --ds-zero if not given."
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
    _option("--sp-size", type=int, help="Sequence-parallel ranks: 1 or tp-size."),
    _option("--weight-bits", type=int, help="Bits per stored weight.  [default: 16]"),
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
    _option("--flops-efficiency", type=float, help="Share of peak FLOP/s, instead of the GPU's table."),
    _option(
        "--hbm-memory-efficiency", type=float, help="Share of memory bandwidth, instead of the GPU's table."
    ),
    _option("--cost-per-gpu-hour", type=float, help="US dollars, to print cost."),
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
@click.option("--explain", is_flag=True, help="Show each number's formula with the values in it.")
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object.")
def infer(
    gpus: tuple[str, ...],
    config_file: str | None,
    log_file: str | None,
    output_dir: str | None,
    explain: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Predict one inference: where tensors go, what fits, how long, and what bounds it.

    Exits with 0, with 2 for bad input, with 3 where it does not fit (on none of the GPUs).
    """
    questions = _questions(
        gpus, config_file, {name: value for name, value in flags.items() if value is not None}
    )
    results = [predict_inference(build_scenario(question)) for question in questions]
    answers = list(zip(questions, results, strict=True))
    if output_dir is not None:
        _write_results(Path(output_dir), answers)
    if log_file is not None:
        _write_logs(log_file, results)
    if as_json:
        _print_json(answers, explain)
    else:
        _print_text(answers, explain)
    return 0 if any(result.feasible for result in results) else EXIT_DOES_NOT_FIT


def _questions(
    gpus: tuple[str, ...], config_file: str | None, flags: dict[str, Any]
) -> list[InferenceInputs]:
    """One set of inputs per GPU. Flags win over the file."""
    given = _read_config(config_file) if config_file is not None else {}
    given |= flags
    if "gpu" in given and not gpus:
        gpus = (given["gpu"],)
    given.pop("gpu", None)
    if not given.get("model"):
        raise SpecError("--model is required (llm-perf models list shows the bundled ones)")
    if not gpus:
        raise SpecError("--gpu is required (llm-perf gpus list shows the bundled ones)")
    return [InferenceInputs(gpu=gpu, **given) for gpu in gpus]


def _read_config(file: str) -> dict[str, Any]:
    data = files.parse_mapping(files.read_text(Path(file)), file)
    inputs = data.get("inputs", data)
    if not isinstance(inputs, dict):
        raise SpecError(f"{file}: 'inputs' must be a mapping of fields")
    unknown = sorted(str(key) for key in inputs if key not in InferenceInputs.model_fields)
    if unknown:
        raise SpecError(f"{file}: unknown field {unknown[0]!r}")
    return dict(inputs)


def _object(question: InferenceInputs, result: InferenceResult) -> dict[str, Any]:
    from llm_perf.report.inference_json import result_object

    changes = changes_that_fit(question, result)
    return result_object(
        result, question.model_dump(), changes, _nearest(question, result), question.cost_per_gpu_hour
    )


def _nearest(question: InferenceInputs, result: InferenceResult) -> dict[str, Any] | None:
    from calibrate.nearest import nearest_run

    return nearest_run(question, result)


def _print_json(answers: list[tuple[InferenceInputs, InferenceResult]], explain: bool) -> None:
    objects = []
    for question, result in answers:
        found = _object(question, result)
        if explain:
            from llm_perf.report.explain import explanations

            found["explanations"] = [entry.as_dict() for entry in explanations(result)]
        objects.append(found)
    whole = (
        objects[0]
        if len(objects) == 1
        else {"schema_version": objects[0]["schema_version"], "comparison": objects}
    )
    click.echo(json.dumps(whole, allow_nan=False))


def _print_text(answers: list[tuple[InferenceInputs, InferenceResult]], explain: bool) -> None:
    from llm_perf.report import inference_text as text

    if len(answers) == 1:
        question, result = answers[0]
        changes = changes_that_fit(question, result)
        report = text.inference_report(
            result, changes, _nearest(question, result), question.cost_per_gpu_hour
        )
        text.print_report(report)
        click.echo(text.log_section(result))
    else:
        text.print_report(text.comparison_report([result for _, result in answers]))
        for _, result in answers:
            if not result.feasible:
                text.print_report(f"{result.scenario.gpu.name}: {result.reason}")
    if explain:
        from llm_perf.report.explain import explanation_report

        for _, result in answers:
            text.print_report(explanation_report(result))


def _write_logs(log_file: str, results: list[InferenceResult]) -> None:
    from llm_perf.report.prediction_log import write_prediction_log

    for result in results:
        path = write_prediction_log(result, log_file)
        click.echo(f"benchmark log appended to {path}", err=True)


def _write_results(folder: Path, answers: list[tuple[InferenceInputs, InferenceResult]]) -> None:
    from llm_perf.report.prediction_log import automatic_name

    for question, result in answers:
        name = f"{result.scenario.gpu.name.lower().replace(' ', '-')}-{automatic_name(result).removesuffix('.log')}.json"
        path = folder / name
        _write_atomically(path, json.dumps(_object(question, result), indent=1, allow_nan=False) + "\n")
        click.echo(f"result written to {path}", err=True)


def _write_atomically(path: Path, text: str) -> None:
    """Write beside the target, then rename: a reader never sees half a file."""
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
