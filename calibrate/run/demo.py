"""``make run-demo``: every variant of the real run on this device, predicted beside measured, tokens compared.

Each variant has a process of its own, as a measurement should; the model's random weights are written once.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from calibrate.probe.extras import require_extra
from calibrate.probe.own_process import exit_code_of, no_options, run_cli
from calibrate.probe.progress import Progress
from calibrate.run.campaign import Campaign
from llm_perf.errors import EnvironmentFailure

MODEL = "opt-125m"
_COMMON = (
    "--dummy", "--prompt-len", "64", "--gen-len", "8", "--batch-size", "2", "--loops", "3", "--runs-dir",
    "runs",
)  # fmt: skip
_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the model. ``exact``: its tokens equal plain transformers'."""

    label: str
    flags: tuple[str, ...]
    exact: bool = True


VARIANTS = (
    Variant("plain transformers", ("--system", "transformers")),
    Variant("ZeRO-3, CPU offload", ("--cpu-offload",)),
    Variant("  and KV offload", ("--cpu-offload", "--kv-offload")),
    Variant("  and 4-bit weights", ("--cpu-offload", "--quant-bits", "4"), exact=False),
    Variant("ZeRO-3, NVMe offload", ("--disk-offload",)),
    Variant("ZeRO-3, two ranks", ("--cpu-offload", "--num-gpus", "2")),
)


def main(arguments: list[str] | None = None) -> int:
    """Run all variants and print the table. Returns an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    model = [*given, MODEL][0]

    def work() -> None:
        no_options("python -m calibrate.run.demo [MODEL]", given, 1)
        require_extra("make run-demo")
        results = _run_all(model)
        sys.stdout.write("\n".join(_table(model, results)) + "\n")
        _check(results)

    return exit_code_of(work)


def _run_all(model: str) -> list[tuple[Variant, dict[str, Any]]]:
    common = ("--model", model, "--dtype", _dtype(), *_COMMON)
    with Progress().shown() as progress:
        campaign = Campaign[Variant](
            measure=lambda variant, _left_s: run_cli(*common, *variant.flags, timeout_s=_TIMEOUT_S),
            name=lambda variant: variant.label.strip(),
            say=progress.say,
        )
        campaign.run_all(VARIANTS)
    return campaign.done


def _dtype() -> str:
    """fp32 on a CPU, so that tokens can be compared exactly between one rank and two; fp16 on a GPU."""
    import torch

    return "fp16" if torch.cuda.is_available() else "fp32"


def _table(model: str, results: list[tuple[Variant, dict[str, Any]]]) -> list[str]:
    """Predicted beside measured, one line per variant; two for the phases' header."""
    run = results[0][1]["run"]
    lines = [
        f"{model}-shaped random weights, {run['dtype']} on {results[0][1]['environment']['device']['name']}, "
        f"batch {run['batch_size']}, {run['prompt_len']} + {run['gen_len']} tokens; seconds, median of {run['loops']} loops",
        "",
        f"{'':<22}{'prefill':^25}{'decode':^25}{'peak memory, GiB':^25}{'':>9}",
        f"{'':<22}" + f"{'meas.':>8}{'pred.':>10}{'error':>7}" * 3 + f"{'tokens':>9}",
    ]
    reference = results[0][1]["raw"]["tokens"]
    for variant, result in results:
        same = "equal" if result["raw"]["tokens"] == reference else "differ"
        cells = [
            _cells(result["measured"]["prefill"]["latency_s"], result["predicted"]["prefill"]["latency_s"]),
            _cells(result["measured"]["decode"]["latency_s"], result["predicted"]["decode"]["latency_s"]),
            _cells(
                result["measured"]["peak_gpu_memory_bytes"],
                result["predicted"]["peak_gpu_memory_bytes"],
                2**30,
            ),
        ]
        lines.append(f"{variant.label:<22}{''.join(cells)}{same:>9}")
    return [*lines, "", *_details(results)]


def _cells(measured: float, predicted: float, unit: float = 1.0) -> str:
    error = (predicted - measured) / measured
    return f"{measured / unit:>8.3f}{predicted / unit:>10.3f}{error:>+7.0%}"


def _details(results: list[tuple[Variant, dict[str, Any]]]) -> list[str]:
    lines = []
    for variant, result in results:
        measured = result["measured"]
        if measured["bytes_swapped_to_disk"]:
            lines.append(
                f"{variant.label.strip()}: {measured['bytes_swapped_to_disk'] / 2**20:,.0f} MiB in swap files"
            )
        if measured["quantisation"]["bits"] < 16:
            found = measured["quantisation"]
            lines.append(
                f"{variant.label.strip()}: {found['quantised_tensors']} tensors quantised "
                f"({found['quantised_bytes'] / 2**20:,.0f} MiB), {found['unquantised_tensors']} not "
                f"({found['unquantised_bytes'] / 2**20:,.0f} MiB)"
            )
        lines += [f"{variant.label.strip()}: {warning}" for warning in result["warnings"]]
    return lines


def _check(results: list[tuple[Variant, dict[str, Any]]]) -> None:
    """What must be true of the variants.

    Raises:
        EnvironmentFailure: tokens differ where they must not, or nothing went to disk.
    """
    reference = results[0][1]["raw"]["tokens"]
    for variant, result in results:
        if variant.exact and result["raw"]["tokens"] != reference:
            raise EnvironmentFailure(f"{variant.label.strip()}: tokens differ from plain transformers'")
        if "--disk-offload" in variant.flags and not result["measured"]["bytes_swapped_to_disk"]:
            raise EnvironmentFailure(f"{variant.label.strip()}: no swap files were written")


if __name__ == "__main__":
    sys.exit(main())
