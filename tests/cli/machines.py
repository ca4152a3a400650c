"""A machine for every system that infer predicts, of which everything is known, so that each can be priced on it."""

from __future__ import annotations

ON_ANY = ("--model", "opt-13b", "--gpu", "h100-pcie-80gb", "--host", "h100-spr-host")
_OF_ITS_OWN = {
    "airllm": (*ON_ANY, "--host", "dgx-2"),  # a disk
    "optimum_habana": ("--model", "opt-13b", "--gpu", "gaudi2-96gb", "--host", "gaudi-server"),
    "atom": ("--model", "opt-13b", "--gpu", "mi300x-192gb", "--host", "mi300x-server"),
} | dict.fromkeys(
    ("fiddler", "ktransformers", "mixtral_offloading", "moe_infinity"), (*ON_ANY, "--model", "mixtral-8x7b")
)


def on_its_machine(system: str) -> tuple[str, ...]:
    """Words of a question to a system: a machine that it runs on, and a model of the kind that it takes."""
    return (*_OF_ITS_OWN.get(system, ON_ANY), "--system", system)
