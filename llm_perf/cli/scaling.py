"""``llm-perf scaling``."""

from __future__ import annotations

import json
from typing import Any

import click

from llm_perf.cli.options import WHOLE
from llm_perf.errors import SpecError

EXIT_NOTHING_FITS = 3


@click.command("scaling")
@click.option("--model", help="Name, YAML or JSON file, Hugging Face config.json or its folder, or hub id.")
@click.option("--gpu", help="Name or file.")
@click.option("--host", help="Name or file; the GPU's usual host if not given.")
@click.option("--system", help="resident, fastertransformer, vllm or another.  [default: resident]")
@click.option("--tp-sizes", help='Numbers of GPUs, such as "1,2,4".  [default: 1,2,4,8]')
@click.option("--prompt-lens", help='Prompt lengths, such as "32,512".  [default: 32,128,512]')
@click.option("--batch-sizes", help="Batches.  [default: powers of two up to 512]")
@click.option("--gen-len", type=WHOLE, help="Tokens to generate per sequence.  [default: 32]")
@click.option("--quant-bits", type=WHOLE, help="Quantise weights to 4 or 8 bits in groups (16: not).")
@click.option("--kv-bits", type=WHOLE, help="Bits per KV cache element.")
@click.option("--profile", help="Calibrated profile: name, file, or none.")
@click.option(
    "--allow-long-context/--no-allow-long-context", default=None, help="Beyond the model's positions."
)
@click.option("--plot", "plot_file", help="Draw the curves into this .png or .svg (extra: plot).")
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object.")
def scaling(
    tp_sizes: str | None,
    prompt_lens: str | None,
    batch_sizes: str | None,
    plot_file: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Latency and throughput over the batch, for several prompt lengths and numbers of GPUs.

    And the thresholds: how many tokens a pass takes before its latency grows with them, per number of GPUs.

    Exits with 0, with 2 for bad input, with 3 where no batch fits on any number of GPUs.
    """
    from llm_perf.analysis.request import InferenceInputs
    from llm_perf.analysis.scaling import (
        DEFAULT_BATCH_SIZES,
        DEFAULT_PROMPT_LENS,
        DEFAULT_TP_SIZES,
        predict_scaling,
    )

    given = {name: value for name, value in flags.items() if value is not None}
    for name in ("model", "gpu"):
        if name not in given:
            raise SpecError(f"--{name} is required (llm-perf {name}s list shows the bundled ones)")
    inputs = InferenceInputs(**given)
    axes = (
        _numbers("--tp-sizes", tp_sizes, DEFAULT_TP_SIZES),
        _numbers("--prompt-lens", prompt_lens, DEFAULT_PROMPT_LENS),
        _numbers("--batch-sizes", batch_sizes, DEFAULT_BATCH_SIZES),
    )
    if plot_file is not None:
        from llm_perf.report.plots.style import check_plot

        check_plot(plot_file)
    found = predict_scaling(inputs, *axes)
    if plot_file is not None:
        from llm_perf.report.scaling_plot import write_scaling_plot

        click.echo(f"plot written to {write_scaling_plot(found, plot_file)}", err=True)
    if as_json:
        from llm_perf.report.scaling_text import scaling_object

        click.echo(json.dumps(scaling_object(found), allow_nan=False))
    else:
        from llm_perf.report.inference_text import print_report
        from llm_perf.report.scaling_text import scaling_report

        print_report(scaling_report(found))
    return 0 if any(curve.fits.any() for curve in found.curves) else EXIT_NOTHING_FITS


def _numbers(flag: str, text: str | None, default: tuple[int, ...]) -> tuple[int, ...]:
    """Whole numbers above 0 that commas separate.

    Raises:
        SpecError: something else.
    """
    if text is None:
        return default
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < int(part) <= 10**9 for part in parts):
        raise SpecError(f"{flag} {text!r} must be whole numbers above 0, separated by commas")
    return tuple(int(part) for part in parts)
