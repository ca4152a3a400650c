"""Words of `make fuzz`: sizes, rates and names as people write them, and values of any flag of a command."""

from __future__ import annotations

import random
from typing import Final

import click

from llm_perf.config.loading import known_names
from llm_perf.systems.families import families, folder_of
from llm_perf.systems.registry import system_names
from llm_perf.systems.training.framework import FRAMEWORKS

SIZES: Final = (0, 1, 1, 1, 2, 3, 4, 8, 16, 100, 512, 4096, 10**6, 10**12, 10**13, 2**63, -1)
RATES: Final = (
    0.0,
    0.1,
    0.5,
    1.0,
    1.0,
    2.0,
    100.0,
    1e9,
    1e-9,
    1e-300,
    5e-324,
    1e308,
    -1.0,
    float("nan"),
    float("inf"),
)
WORDS: Final = (
    "",
    " ",
    "x",
    "auto",
    "none",
    "0",
    "1",
    "-1",
    "on",
    "1:4",
    "1:4:x2",
    "1,2",
    "nan",
    "1e400",
    "\u2028",
    "é",
    "a" * 300,
)
TARGETS: Final = ("tpot<50ms", "p95 ttft<1s, p95 tpot<50ms", "ttft<1", "x<1s", "tpot<0ms", "p200 ttft<1s")
_OF_HOSTS: Final = (
    "{}", "{}", "{}", "2x {}", "8x {}", "{} x2", "dual {}", "({})", "2x {} 512 GB", "{}-64gb", "{}-1tb", "{}-99999tb",
    "{}-0gb", "9x {}", "-2x {}", "2x2x {}", "+{}", "{} +", "{}{}", "2x", "-256gb", "256 GB", "dual", "x2",
)  # fmt: skip
_OF_GPUS: Final = (
    "{}",
    "{}",
    "{}",
    "{}",
    "2x {}",
    "{} + {}",
    "nvidia {}",
    "{} 24GB",
    "none",
    "here",
    "cpu",
    "all",
    "*",
)
_OF_MODELS: Final = ("{}", "{}", "{}", "{}", "{}-AWQ", "{}-GGUF", "{}-FP8", "{}:8b", "x/{}", "{}-128k")
_LENGTHS: Final = (
    "uniform:1:900",
    "lognormal:300:200",
    "lognormal:5:0",
    "uniform:9:1",
    "lognormal:nan:1",
    "512",
    "1e3",
)
_LISTS: Final = ("0.9,0.5", "0.8", "1,0,1", "2", ".5,", ",")
_VALUES_OF: Final = {
    "--tokens": ("1e9", "100e9", "1", "0", "1e30"),
    "--deadline": ("30d", "12h", "2w", "90m", "0d", "d", "1e9d"),
    "--rate": ("1", "0.1", "1:5:1", "inf", "0", "1e13", "1:300:1"),
    "--burstiness": ("1", "0.2", "inf", "0", "1e-12"),
    "--acceptance": _LISTS,
    "--percent": ("100 0 100 0 100 0", "0 100 0 100 100 0", "0 0 0 0 0 0", "50 60 1 1 1 1", "1 2 3"),
    "--n-gpu-layers": ("0", "1", "20", "all", "-1", "999", "99999"),
    "--n-cpu-moe": ("0", "1", "20", "all", "-1", "999", "99999"),
    "--draft-model": ("mtp", "eagle", "opt-125m", "llama-3.2-1b", "nothing"),
    "--gpus": ("h100*,l4", "rtx-40*", "zzz*", "t4", "a100-sxm-80gb,h200"),
    "--activation-recomputation": ("0", "2", "4", "full", "selective", "attn", "9"),
    "--optimizer": ("adamw", "adam8bit", "lion", "adafactor", "muon", "sgd", "paged_adamw_8bit", "x"),
    "--lora-targets": ("all", "attention", "qkv", "qv", "none", "mlp"),
    "--lora-rank": ("8", "16", "64", "0", "1000000", "-1"),
    "--recompute-modules": ("moe_act,layernorm", "core_attn", "mlp,mlp", "x"),
    "--scheduler": ("fcfs", "GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "x"),
}  # fmt: skip


def host_name(draw: random.Random) -> str:
    """A host as people name one, by sockets and memory too, or nearly so."""
    name = draw.choice((*known_names("host"), "here", "xeon 8480", "EPYC 9554P"))
    if draw.random() < 0.3:
        name = name.replace("-", " ")
    return draw.choice(_OF_HOSTS).replace("{}", name)


def gpu_name(draw: random.Random) -> str:
    """A GPU, several, or none."""
    return draw.choice(_OF_GPUS).replace("{}", draw.choice(known_names("GPU")))


def model_name(draw: random.Random) -> str:
    """A model, in a format, or nearly one."""
    return draw.choice(_OF_MODELS).replace("{}", draw.choice(known_names("model")))


def system_name(draw: random.Random) -> str:
    """A system by its name, another name of it, or one of its versions."""
    name = draw.choice(system_names())
    kind = draw.randrange(6)
    if kind == 0:
        return draw.choice([*(alias for one in families() for alias in one.aliases), name])
    if kind == 1:
        return f"{name}@{draw.choice((*folder_of(name).all_releases, '0', '1.0', '999', 'x', ''))}"
    return name


def value_of(draw: random.Random, option: click.Option) -> str:
    """A value of a flag that mostly makes sense."""
    name, kind = option.opts[0], option.type
    if isinstance(kind, click.Choice) and draw.random() < 0.9:
        return str(draw.choice(list(kind.choices)))
    if draw.random() < 0.08:
        return draw.choice(WORDS)
    if name in _VALUES_OF:
        return draw.choice(_VALUES_OF[name])
    if name == "--model":
        return model_name(draw)
    if name == "--gpu":
        return gpu_name(draw)
    if name == "--host":
        return host_name(draw)
    if name == "--system":
        return system_name(draw)
    if name == "--framework":
        return draw.choice((*FRAMEWORKS, "accelerate", "nothing"))
    if name == "--target" or "target" in name:
        return draw.choice(TARGETS)
    words = option.shell_complete(click.Context(click.Command("asked")), "")
    if words and draw.random() < 0.9:
        return str(draw.choice(words).value)
    if name in ("--prompt-len", "--gen-len", "--think-time") and draw.random() < 0.2:
        return draw.choice(_LENGTHS)
    if kind.name == "integer" or name.endswith(("-len", "-size", "-requests", "-gpus")):
        return str(draw.choice(SIZES[:-4] if draw.random() < 0.8 else SIZES))
    if kind is click.FLOAT or isinstance(kind, click.FloatRange):
        return str(draw.choice(RATES[:7] if draw.random() < 0.8 else RATES))
    return draw.choice((*WORDS, "4", "16", "fp8", "awq", "q4_k_m"))
