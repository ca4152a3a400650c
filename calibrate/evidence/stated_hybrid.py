"""Rows of runs on a GPU and a CPU that computes, as strings, to the scenario that predicts them.

Columns are those of the table of hybrid machines (``calibrate/measurements/README.md``): layers on the GPU, experts on the
CPU, the type of a GGUF file and its size, memory channels. Nothing here knows a source: a cell means the same whoever
wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from calibrate.evidence.published import GPU_ALIASES, SYSTEM_ALIASES
from calibrate.evidence.published.cells import Row, cells_of
from calibrate.evidence.published.names import version_at
from calibrate.evidence.stated_hosts import stated_host
from llm_perf.analysis.request import ALL_LAYERS, InferenceInputs, build_scenario
from llm_perf.analysis.run_facts import RunFacts
from llm_perf.config.base import GIB
from llm_perf.config.formats import WEIGHT_FORMATS, MatrixFormat, WeightFormats, format_name
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.loading import get_gpu_config_by_name, get_model_config_by_name, resolve_name
from llm_perf.config.model import ModelConfig
from llm_perf.config.quantization import named_quantization
from llm_perf.config.scenario import Scenario
from llm_perf.config.workload import Shares
from llm_perf.counts.weight_formats import checkpoint_bytes, resolve_formats
from llm_perf.errors import SpecError
from llm_perf.systems import Load, system_of
from llm_perf.systems.base import MemoryUse
from llm_perf.systems.constants import own_constants
from llm_perf.systems.families import Device, declaration, find, folder_of
from llm_perf.systems.registry import get_system

_USUAL_GEN: Final = 128
_USUAL_PROMPT: Final = 512
_MODEL_OF_FILE: Final = re.compile(r"[-.](?:UD-)?(?:I?Q\d\w*|BF16|F16|mxfp4|MXFP4)$")
"""What the name of a GGUF file has behind its model's."""


def is_hybrid(row: Mapping[str, str]) -> bool:
    """Whether a row is of a table with these columns."""
    return "gguf_type" in row


_COLUMNS: Final = dict.fromkeys(
    (
        "system", "system_version", "model", "gpu", "gpu_count", "host_cpu", "host_ram_GB", "disk", "disk_read_GBps",
        "batch_size", "weight_offload", "prompt_len_tok", "gen_len_tok", "notes", "cpu_mem_channels", "cpu_mem_speed_MTs",
        "pcie_gen", "gpu_layers", "experts_on_cpu", "gguf_type", "cpu_threads", "expert_cache", "context_depth_tok",
        "weights_GiB", "host_bw_theory_GBps",
    ),
    "",
)  # fmt: skip
"""Columns that are read."""


def hybrid_cells(row: Mapping[str, str]) -> Row:
    """The cells of a row; of notes those that a scoring program hands on, where there are such."""
    stated = {name: str(row.get(name) or "") for name in _COLUMNS}
    notes = stated["notes"] or str(row.get("notes_for_prediction") or "")
    return cells_of(stated | {"notes": notes})


@dataclass(frozen=True)
class HybridRun:
    """The scenario of a row, and its lengths: tokens that are new in the prompt, those before them, and generated ones.

    ``context``: tokens that the cache was made for; what the run used if None.
    """

    scenario: Scenario
    new_tokens: int
    depth: int
    gen_len: int
    context: int | None = None

    @property
    def memory(self) -> MemoryUse:
        """Memory with the cache that was made."""
        return _memory(self.scenario, self.context)


def hybrid_run(cells: Row) -> HybridRun:
    """The scenario of one row.

    Raises:
        SpecError: a name that is unknown, a split that is not stated, or a machine that is not described.
    """
    system = cells_system(cells)
    model, formats = _model(cells)
    prompt, gen, depth = (cells.integer(f"{c}_tok") for c in ("prompt_len", "gen_len", "context_depth"))
    depth = depth or 0
    new = _USUAL_PROMPT if prompt is None else prompt
    gen = gen or _USUAL_GEN
    length = max(depth + new, 1)
    options = get_system(system).options
    gpus = cells.integer("gpu_count") or 0
    spec = _gpu(cells)
    computes = _computes(system)
    host, threads = stated_host(cells, spec, computes=computes and not _all_on_gpu(cells, gpus))
    notes = cells.text("notes")
    asked: dict[str, Any] = {
        "model": model.name, "gpu": spec.name, "system": system, "batch_size": cells.integer("batch_size") or 1,
        "prompt_len": length, "gen_len": gen, "allow_long_context": True,
    }  # fmt: skip
    if "prefix_hit_rate" in options and depth:
        asked["prefix_hit_rate"] = min(depth / length, 1.0) if new else 1.0
    if "threads" in options:
        told = re.search(r"\b(\d+) threads\b", notes)
        asked["threads"] = cells.integer("cpu_threads") or threads or (int(told[1]) if told else None)
    found = re.search(r"(?:-ub |n_ubatch=)(\d+)", notes)
    if "ubatch_size" in options and found is not None:
        asked["ubatch_size"] = int(found[1])
    if re.search(r"type_k=q8_0|cache q8_0|KV q8_0|K q8_0", notes) and "ubatch_size" in options:
        asked["kv_format"] = "q8_0"
    told = re.search(r"kt-gpu-prefill-token-threshold (\d+)", notes)
    if "kt_gpu_prefill_token_threshold" in options and told is not None:
        asked["kt_gpu_prefill_token_threshold"] = int(told[1])
    asked |= _division(cells, model, options, gpus)
    if gpus > 1:
        size = "pp_size" if get_system(system).family.more_gpus == "stages" else "tp_size"
        asked[size] = gpus
    if formats is None:
        asked |= {"weight_format": None}
    sized = re.search(r"(\d+)[Kk] context", notes)
    context = None if sized is None else int(sized[1]) * 1024
    facts = RunFacts(model=model, host=host, weights=_tier(cells, options))
    fill = next((name for name, value in asked.items() if value == _FITTING), None)
    if fill is None:
        scenario = build_scenario(InferenceInputs(**asked), facts)
        used = _memory(scenario, context).gpu
        if not used.total_bytes <= used.capacity_bytes:  # its driver takes the host's memory as well
            stated_host(cells, spec, computes=computes)
        return HybridRun(scenario, new, depth, gen, context)
    most_gib = int(checkpoint_bytes(model, resolve_formats(model, None)) / GIB) + 1
    ends = {"n_cpu_moe": (model.num_layers, 0), "cpu_offload_gb": (most_gib, 0)}
    least, most = ends.get(fill, (0, _most_experts(model)))
    scenario = _filled(
        lambda value: build_scenario(InferenceInputs(**asked | {fill: value}), facts),
        least,
        most,
        context,
        _fit_margin_bytes(cells),
    )
    return HybridRun(scenario, new, depth, gen, context)


def _most_experts(model: ModelConfig) -> int:
    return max(group.mlp.routed_experts for group in model.layer_groups)


def _fit_margin_bytes(cells: Row) -> float:
    """What stays free of a GPU that llama.cpp itself filled: its ``--fit-target``, 1,024 MiB unless told otherwise."""
    if cells.text("experts_on_cpu") != "auto":
        return 0.0
    told = re.search(r"--fit-target (\d+)", cells.text("notes"))
    return (_FIT_TARGET_MIB if told is None else int(told[1])) * GIB / 1024


_FIT_TARGET_MIB: Final = 1024


def _filled(
    build: Callable[[int], Scenario], least: int, most: int, context: int | None, margin_bytes: float
) -> Scenario:
    """The scenario that uses as much of the GPU as fits, between the least and the most of a setting."""

    def fits(value: int) -> bool:
        used = _memory(build(value), context).gpu
        return bool(used.total_bytes + margin_bytes <= used.capacity_bytes)

    low, high = least, most
    while abs(high - low) > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return build(high) if fits(high) else build(low)


def _memory(scenario: Scenario, context: int | None) -> MemoryUse:
    system, load = system_of(scenario), Load.of(scenario.workload)
    if context is not None:
        load = Load(load.batch, max(context - load.gen_len, load.prompt_len), load.gen_len)
    return system.memory(scenario, load, system.place(scenario, load))


def _all_on_gpu(cells: Row, gpus: int) -> bool:
    """Whether a row says that the GPU has all layers with their experts, so that its CPU need not be known."""
    return bool(gpus) and cells.text("gpu_layers") == "all" and cells.text("experts_on_cpu") in ("", "0")


def _computes(system: str) -> bool:
    """Whether products run on the CPU: its constants say what it reaches, and experts are not copied."""
    file = get_system(system).file
    return "cpu_stream_share" in file.constants and not file.value("misses_copied")


def cells_system(cells: Row) -> str:
    """The system of a row, in its version; in that of its libraries where the version has files of them on the GPU."""
    stated, version = cells.required("system"), cells.text("system_version")
    found = _system(stated, version)
    library = (
        "hipblaslt"
        if re.search(r"hipblaslt|hblt1", f"{stated} {cells.text('notes')}", re.IGNORECASE)
        else "rocblas"
    )
    release = _by_library(found, library, _gpu(cells).device)
    return release if re.search(r"\b(ROCm|HIP)\b", stated) and _multiplies_by_library(version) else found


def _gpu(cells: Row) -> GPUConfig:
    """The GPU of a row, or none."""
    stated = cells.text("gpu") if cells.integer("gpu_count") else ""
    name = resolve_name("GPU", GPU_ALIASES.get(stated, stated)) if stated else "none"
    return get_gpu_config_by_name(name, or_none=True)


def _by_library(system: str, library: str, device: Device) -> str:
    family, special = find(system)[0], f"hip-{library}"
    known = folder_of(family).special
    return (
        f"{family}@{special}"
        if special in known and set(own_constants(family, special).only_on) & set(device)
        else system
    )


def _multiplies_by_library(version: str) -> bool:
    """Whether a build's HIP kernels leave long prompts to a library: until integer kernels of RDNA 3 (pull request 17576)."""
    build, month = re.search(r"\bb(\d{4})\b", version), re.search(r"\b20\d\d-\d{2}\b", version)
    return int(build[1]) < _BUILD_OF_2025_12 if build else month is not None and month[0] < "2025-12"


_BUILD_OF_2025_12: Final = 7230


def _system(stated: str, version: str) -> str:
    bare = re.sub(r"\s*\(.*?\)", "", stated).strip()
    known = SYSTEM_ALIASES.get(bare, bare)
    try:
        family, own = find(known)
    except SpecError:
        raise SpecError(f"system {stated}: no such family ships") from None
    if own is not None:
        return f"{family}@{own}"
    printed = re.search(r"\bb\d{4}\b|\d{4}-\d{2}|\d+\.\d+(?:\.\d+)?|\b20\d\d\b", version)
    if printed is None:
        return family
    if (then := version_at(family, printed[0])) is not None:
        return f"{family}@{then}"
    if re.fullmatch(r"b\d{4}", printed[0]):
        then = declaration(family).version_of_build(printed[0])
        return family if then is None else f"{family}@{then}"
    return f"{family}@{printed[0]}"


# -- layers and experts ---------------------------------------------------------------------------------------------


def _division(cells: Row, model: ModelConfig, options: frozenset[str], gpus: int) -> dict[str, Any]:
    """Layers and experts per place.

    Raises:
        SpecError: the row leaves a part that it does not state.
    """
    layers, experts = cells.text("gpu_layers"), cells.text("experts_on_cpu")
    if "n_gpu_layers" not in options:
        return _share_of_experts(cells, model, options)
    found: dict[str, Any] = {}
    if gpus:
        found["n_gpu_layers"] = _layers(layers, model.num_layers)
    moe = any(group.mlp.routed_experts for group in model.layer_groups)
    if not gpus or not moe or experts in ("", "0"):
        return found
    dense = next((group.count for group in model.layer_groups if not group.mlp.routed_experts), 0)
    total = model.num_layers
    if experts in ("1", "all"):
        return found | {"n_cpu_moe": ALL_LAYERS}
    on_gpu = re.fullmatch(r"all but (\d+) layers", experts)
    if on_gpu is not None:
        return found | {"n_cpu_moe": total - int(on_gpu[1])}
    of = re.fullmatch(r"(?:about )?(\d+)(?: of \d+(?: layers)?)?", experts)
    if of is not None:
        return found | {"n_cpu_moe": dense + int(of[1])}
    if experts in ("part", "auto", "part (hybrid)", "most", "all but few"):
        return found | {"n_cpu_moe": _FITTING}
    raise SpecError(f"experts_on_cpu {experts}: how many layers' experts is not stated")


_FITTING: Final = -1
"""As many layers as do not fit on the GPUs."""


def _layers(stated: str, total: int) -> int:
    if stated in ("", "all"):
        return ALL_LAYERS
    percent = re.fullmatch(r"(\d+) percent", stated)
    if percent is not None:
        return round(total * int(percent[1]) / 100)
    if stated.isdigit():
        return ALL_LAYERS if int(stated) >= total else int(stated)
    raise SpecError(f"gpu_layers {stated}: how many layers is not stated")


def _tier(cells: Row, options: frozenset[str]) -> Shares | None:
    """Where weights are as a whole, for systems that move them."""
    stated = cells.text("weight_offload")
    if options & {"n_gpu_layers", "kt_num_gpu_experts", "cpu_offload_gb"} or not options:
        return None  # it divides layers, or fills tier after tier
    return {"cpu": Shares.on("cpu"), "disk": Shares.on("nvme")}.get(stated)


def _share_of_experts(cells: Row, model: ModelConfig, options: frozenset[str]) -> dict[str, Any]:
    stated = cells.text("experts_on_cpu")
    experts = max((group.mlp.routed_experts for group in model.layer_groups), default=0)
    if "cpu_offload_gb" in options:
        told = re.search(r"--cpu-offload-gb (\d+)", cells.text("notes"))
        return {"cpu_offload_gb": float(told[1]) if told else _FITTING}
    if "kt_num_gpu_experts" not in options or get_system(cells_system(cells)).file.value("experts_fill_gpu"):
        return {}
    percent = re.search(r"(\d+)% of experts on GPU", cells.text("expert_cache"))
    if percent is not None:
        return {"kt_num_gpu_experts": round(experts * int(percent[1]) / 100)}
    but = re.fullmatch(r"all but (\d+) of \d+ per layer", stated)
    if but is not None:
        return {"kt_num_gpu_experts": int(but[1])}
    if stated in ("1", "all", ""):
        return {"kt_num_gpu_experts": 0}
    return {"kt_num_gpu_experts": _FITTING}


# -- number formats -------------------------------------------------------------------------------------------------

_FORMATS: Final = {
    "f16/mxfp4": "mxfp4_gguf", "mxfp4": "mxfp4_gguf", "rawint4": "int4", "int4": "int4", "amxint4": "int4",
    "amx int8": "int8_weight_only", "int8 cpu / int4 gpu": "int8_weight_only", "fp8": "fp8_block", "bf16": "bf16",
    "f16": "bf16", "q4 class": "q4_k_m", "iq2_m": "iq2_s", "ollama default q4_0": "q4_0", "q4_k": "q4_k_m",
    "q5_k": "q5_k_m", "q3_k": "q3_k_m", "q2_k_m": "q2_k", "q4": "q4_k_m",
    "iq1_s/iq1_m mix": "iq1_s", "iq1_s/iq1_m": "iq1_s", "iq5_k_r4/iq4_k_r4/q8_0": "iq4_k",
    "iq5_k_r4/iq4_k_r4 variant 2": "iq4_k", "q4_k_m (assumed)": "q4_k_m", "q6_k_l": "q6_k", "4 bit": "int4",
    "q8_k": "q8_0", "iq1_s or q2_k_xl": "iq1_s", "q8_k_xl": "q8_0",
}  # fmt: skip


def _format(stated: str) -> str:
    """The mixture that a file's type is nearest to; its size says how much wider it is.

    Raises:
        SpecError: it names none.
    """
    text = stated.lower().strip()
    text = re.sub(r"^(unsloth|ubergarm)\s+", "", text)
    text = text.removeprefix("ud-")
    text = re.sub(r"\s*\(.*gib\)|\s*-\s*[\d.]+ bpw|^ud-|^mix-|\s+mix$|\s+class$", "", text).strip()
    text = re.sub(r"\s*-\s*(medium|small)$", lambda m: f"_{m[1][0]}", text)
    if text in _FORMATS:
        text = _FORMATS[text]
    text = re.sub(r"_xl$", "", re.sub(r"_r\d$", "", text))
    text = _FORMATS.get(text, text)
    try:
        return format_name(text, (*WEIGHT_FORMATS, "fp8_block"), "gguf_type")
    except SpecError:
        raise SpecError(f"gguf_type {stated or 'empty'}: no such number format") from None


def _model(cells: Row) -> tuple[ModelConfig, WeightFormats | None]:
    """The model with the types of its tensors, scaled to the size of the file where that is stated.

    Raises:
        SpecError: unknown model or type.
    """
    stated = cells.required("model")
    name = _MODEL_OF_FILE.sub("", _MODEL_OF_FILE.sub("", stated))
    name = re.sub(r"-UD$", "", name).removesuffix("-NVFP4")
    try:
        model = get_model_config_by_name(resolve_name("model", name))
    except SpecError:
        raise SpecError(f"model {stated}: no such spec ships") from None
    model = _with_top_k(model, cells.text("notes"))
    wanted = _format(cells.text("gguf_type"))
    if wanted == "bf16":
        return model.replace(quantization=None), None
    formats = resolve_formats(model, named_quantization(wanted), "as the row states")
    size = cells.number("weights_GiB")
    if size is not None:
        formats = _scaled(model, formats, size * GIB)
    return model.replace(stored_formats=formats, quantization=None, checkpoint_bytes=None), formats


def _with_top_k(model: ModelConfig, notes: str) -> ModelConfig:
    """The model with as many experts per token as the run was told to use."""
    told = re.search(r"\b(\d+) experts(?: per token|;|$)|\bser (\d+),1", notes)
    if told is None:
        return model
    top_k = int(told[1] or told[2])
    groups = tuple(
        group.replace(mlp=group.mlp.replace(top_k=top_k)) if group.mlp.routed_experts else group
        for group in model.layer_groups
    )
    return model.replace(layer_groups=groups)


def _scaled(model: ModelConfig, formats: WeightFormats, size_bytes: float) -> WeightFormats:
    """The same types with the mean width of experts, of a dense model of all matrices, that makes the file so large."""
    moe = any(group.mlp.routed_experts for group in model.layer_groups)

    def with_factor(factor: float) -> WeightFormats:
        rows = tuple(
            tuple(
                MatrixFormat(entry.bits * factor, entry.kernels, entry.name)
                if not moe or linear.copies > 1
                else entry
                for entry, linear in zip(row, _linears(model, index), strict=True)
            )
            for index, row in enumerate(formats.layers)
        )
        return replace(formats, layers=rows)

    one, two = (checkpoint_bytes(model, with_factor(factor)) for factor in (1.0, 2.0))
    factor = 1.0 + (size_bytes - one) / (two - one)
    return with_factor(factor) if 0.6 < factor < 1.7 else formats


def _linears(model: ModelConfig, index: int) -> Any:
    from llm_perf.counts.linears import layer_linears

    return layer_linears(model.layer_groups[index], model.hidden_size)
