"""``llm-perf policy``."""

from __future__ import annotations

import json
from typing import Any

import click

from llm_perf.cli.notes import note
from llm_perf.cli.options import WHOLE
from llm_perf.errors import SpecError

EXIT_NO_POLICY = 3


@click.command("policy")
@click.option("--model", help="Name, YAML or JSON file, Hugging Face config.json or its folder, or hub id.")
@click.option("--gpu", help="Name or file.")
@click.option("--host", help="Name or file; the GPU's usual host if not given.")
@click.option("--host-memory", type=WHOLE, help="GiB of memory of each host, instead of what it usually has.")
@click.option(
    "--host-bandwidth",
    type=float,
    help="GB/s that reads of the host's memory reach, instead of its channels'.",
)
@click.option(
    "--num-gpus", type=WHOLE, help="GPUs per node: pipeline stages (FlexGen) or ranks.  [default: 1]"
)
@click.option("--num-nodes", type=WHOLE, help="Nodes of so many GPUs each.  [default: 1]")
@click.option("--system", help="One whose policies are searched, all, or auto.  [default: all]")
@click.option("--context", type=WHOLE, help="Tokens that the cache has room for (divided models).")
@click.option("--batch-size", type=WHOLE, help="Sequences at once (divided models).  [default: 1]")
@click.option("--weight-format", help="Format of the weights (divided models); llama.cpp: q4_k_m.")
@click.option("--prompt-len", type=WHOLE, help="Prompt tokens per sequence.  [default: 512]")
@click.option("--gen-len", type=WHOLE, help="Tokens to generate per sequence.  [default: 32]")
@click.option("--objective", help="throughput, latency or cost; decode, ttft or mixed where a CPU computes.")
@click.option("--max-latency", type=float, help="Seconds that one batch may take, prefill and decode.")
@click.option("--cost-per-gpu-hour", type=float, help="US dollars, instead of the list's.")
@click.option("--prices", help="Your own list of prices per GPU-hour (YAML); the bundled one if not given.")
@click.option("--lossless/--no-lossless", default=None, help="Leave weights and cache in 16 bits.")
@click.option("--profile", help="Calibrated profile: name, file, or none.")
@click.option(
    "--allow-long-context/--no-allow-long-context", default=None, help="Beyond the model's positions."
)
@click.option("--plot", "plot_file", help="Draw the front into this .png or .svg (extra: plot).")
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object.")
def policy(plot_file: str | None, as_json: bool, **flags: Any) -> int:
    """Search the best placement and batching for offloaded inference.

    Without --system two answers: most tokens per second in batches, and the fastest single chat (--system auto).

    FlexGen's percentages, batches, compression and attention device, and ZeRO-Inference's batch, pinning, quantisation
    and tiers; with --system auto, llama_cpp or ktransformers what of a model goes to the GPU where the CPU computes the
    rest. The policy that is printed is a llm-perf infer command, with the command that starts the server where there is one.

    Exits with 0, with 2 for bad input, with 3 where nothing fits or meets --max-latency.
    """
    from llm_perf.analysis.without_gpu import NO_GPU_NAME, alone_note, missing_gpu, names_host_alone
    from llm_perf.search.policy import ALL, AUTO, PolicyQuestion, search_policy

    given = {name: value for name, value in flags.items() if value is not None}
    if "model" not in given:
        raise SpecError("--model is required (llm-perf models list shows the bundled ones)")
    if "gpu" not in given:
        # "all" and "auto" search systems of GPUs: only a named one can compute on the host.
        asked = {name: value for name, value in given.items() if name != "system" or value not in (ALL, AUTO)}
        if not names_host_alone(asked):
            raise missing_gpu(asked)
        note(alone_note(given["host"]))
        given["gpu"] = NO_GPU_NAME
    question = PolicyQuestion(**given)
    if plot_file is not None:
        from llm_perf.report.plots.style import check_plot

        check_plot(plot_file)
    from llm_perf.cli.inputs import say_versions

    answer = search_policy(question)
    say_versions(answer.question.systems)
    if plot_file is not None:
        from llm_perf.report.policy_plot import write_plot

        click.echo(f"plot written to {write_plot(answer, plot_file)}", err=True)
    if as_json:
        from llm_perf.report.policy_json import policy_object

        click.echo(json.dumps(policy_object(answer), allow_nan=False))
    else:
        from llm_perf.report.inference_text import print_report
        from llm_perf.report.policy_text import policy_report

        print_report(policy_report(answer))
    return 0 if answer.best is not None else EXIT_NO_POLICY
