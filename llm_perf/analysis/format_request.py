"""In which number formats a question is answered: as asked, else as the checkpoint was released."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_perf.analysis.run_facts import NO_FACTS, RunFacts
from llm_perf.config.dtype import DtypeConfig
from llm_perf.config.formats import (
    FORMATS,
    GGUF_MIXTURES,
    KV_FORMATS,
    ONE_SCALE_FP8,
    WEIGHT_FORMATS,
    WeightFormats,
    format_name,
)
from llm_perf.config.model import ModelConfig
from llm_perf.config.quantization import named_quantization
from llm_perf.counts.weight_formats import resolve_formats
from llm_perf.errors import SpecError
from llm_perf.systems.base import System
from llm_perf.systems.families import families

if TYPE_CHECKING:
    from llm_perf.analysis.request import InferenceInputs


_PLAIN_BITS = {"fp16": 16, "bf16": 16, "fp32": 32}


def requested_dtype(
    inputs: InferenceInputs, system: System, model: ModelConfig, facts: RunFacts = NO_FACTS
) -> DtypeConfig:
    """The number formats of weights, tables, activations and cache; the one place that decides them.

    Raises:
        SpecError: two ways to say the width that contradict each other, an unknown format, or one that the system
            does not serve.
    """
    kv_bits, kv_more = _cache(inputs, model, system)
    if system.family.serves_checkpoints:
        kv_more["state_bits"] = max(system.family.state_bits, model.state_bits)
    asked = _asked(inputs, system)
    if asked in _PLAIN_BITS:
        dtype = _shorthand(inputs.replace(weight_bits=_PLAIN_BITS[asked]), system, kv_bits, facts)
        return dtype.replace(origin=f"{asked}, as asked", **kv_more)
    formats = _formats(inputs, system, model, asked)
    if formats is None:
        dtype = _shorthand(inputs, system, kv_bits, facts)
        return dtype.replace(origin=_origin(inputs, system, model), **kv_more)
    dtype = DtypeConfig(
        weight_bits=_nominal_bits(formats),
        activation_bits=inputs.activation_bits,
        embedding_bits=max(16, inputs.activation_bits),
        kv_bits=kv_bits or inputs.activation_bits,
        kv_group_size=inputs.quant_group_size if kv_bits == 4 else None,
        formats=formats,
        origin=f"{formats.name}, {formats.why}",
    )
    return dtype.replace(**kv_more)


def _asked(inputs: InferenceInputs, system: System) -> str | None:
    """The weight format that was asked for by name, None for ``auto``; by a name of the system's users where it has one.

    Raises:
        SpecError: an unknown one, or a width beside it.
    """
    given = inputs.weight_format
    if given is None or given.strip().lower() == "auto":
        return None
    for flag in ("weight_bits", "quant_bits"):
        if getattr(inputs, flag) is not None:
            raise SpecError(
                f"weight_format {given} and {flag} {getattr(inputs, flag)} both say how weights are stored; give one"
            )
    return system.family.meant_format(given) or format_name(given, WEIGHT_FORMATS, "weight_format")


def _formats(
    inputs: InferenceInputs, system: System, model: ModelConfig, asked: str | None
) -> WeightFormats | None:
    """The formats of all matrices; None where one width for all of them says it."""
    if asked == "mxfp4" and system.family.checkpoints == "gguf":
        asked = "mxfp4_gguf"
    if asked is not None:
        if not system.family.serves_checkpoints:
            raise SpecError(
                f"weight_format {asked}: system {system.name} stores weights in 16 bits, or in 4 or 8 with --quant-bits"
            )
        if not system.family.runs_format(asked):
            has = ", ".join(_IN_WORDS.get(name, name) for name in system.family.formats or ())
            raise SpecError(
                f"weight_format {asked}: {system.family.title} has no kernels for it; "
                f"it runs 16 bits and {has}{_who_runs(asked)}"
            )
        if asked == "fp8" and _released_in_blocks(model) and not _one_scale(inputs):
            return resolve_formats(
                model, model.quantization, "as released, which fp8 means (fp8_dynamic: one scale)"
            )
        if _released_in(model, asked):
            return resolve_formats(model, model.quantization, f"as released, which {asked} means")
        if asked in GGUF_MIXTURES and model.quantization is not None and model.quantization.kept_by_gguf:
            kept = named_quantization("mxfp4_gguf")
            return resolve_formats(model, kept, f"as files of every name keep the experts, {asked} too")
        means = system.family.meant_format(inputs.weight_format or "")
        why = f"which {inputs.weight_format} means to {system.family.title}" if means else "as asked"
        return resolve_formats(model, named_quantization(asked), why)
    if not _as_released(inputs) or not system.family.serves_checkpoints:
        return None
    if model.stored_formats is None and system.family.checkpoints == "gguf":
        return _in_gguf(model)
    released = model.stored_formats or model.quantization
    if released is not None and not system.family.runs_format(released.name):
        return None
    if model.stored_formats is not None:
        return model.stored_formats
    if model.quantization is not None:
        return resolve_formats(model, model.quantization, f"as released ({model.quantization.method})")
    return None


def _released_in(model: ModelConfig, asked: str) -> bool:
    """Whether a format is the checkpoint's own: its publisher has said which matrices are in it, gpt-oss's experts alone."""
    quantization = model.quantization if model.stored_formats is None else None
    return quantization is not None and {rule.format for rule in quantization.rules} == {asked}


def _released_in_blocks(model: ModelConfig) -> bool:
    """Whether FP8 of this model is a checkpoint with a scale for each block, as its publisher has it."""
    quantization = model.quantization if model.stored_formats is None else None
    return quantization is not None and {rule.format for rule in quantization.rules} == {"fp8_block"}


def _one_scale(inputs: InferenceInputs) -> bool:
    """Whether another 8-bit checkpoint than the released one was asked for by a name of its own."""
    return (inputs.weight_format or "").strip().lower().replace("-", "_") in _OTHERS_THAN_FP8


_OTHERS_THAN_FP8 = (ONE_SCALE_FP8, "fp8_per_tensor")


def _who_runs(asked: str) -> str:
    """The systems that name a format as theirs; nothing where there are none."""
    found = [one.name for one in families() if one.formats is not None and one.runs_format(asked)]
    return f"; systems that run it: {', '.join(found)}" if found else ""


_IN_WORDS = {
    "gguf": "the types of GGUF files (q4_k_m, q8_0, ...)",
    "exl2": "exl2 of any bits (exl2-4.0bpw)",
    "exl3": "exl3 of any bits (exl3-4.0bpw)",
}


def _in_gguf(model: ModelConfig) -> WeightFormats | None:
    """llama.cpp serves its own files: of a model released in MXFP4 that is the one that keeps the experts so."""
    quantization = model.quantization
    if quantization is None or (quantization.mixture is None and quantization.method != "mxfp4"):
        return None
    named = named_quantization(quantization.mixture or "mxfp4_gguf")
    return resolve_formats(model, named, f"as released ({quantization.method})")


def _as_released(inputs: InferenceInputs) -> bool:
    """No width is asked for; ``quant_bits`` 16 is no quantisation on top of what the checkpoint has."""
    return inputs.weight_bits is None and inputs.quant_bits in (None, 16)


def _origin(inputs: InferenceInputs, system: System, model: ModelConfig) -> str:
    """Why one width holds for all matrices."""
    if not _as_released(inputs):
        if inputs.quant_bits in (4, 8):
            return f"int{inputs.quant_bits} in groups of {inputs.quant_group_size}, as --quant-bits says"
        return f"{inputs.weight_bits}-bit weights without scales, as --weight-bits says"
    released = model.stored_formats or model.quantization
    if released is not None:
        return f"16 bit: {system.name} does not serve {released.name}, in which the checkpoint was released"
    if model.released_dtype == "float32":
        return "16 bit: the checkpoint is float32, which engines serve in 16 bits (--weight-format fp32 keeps it)"
    return f"{model.released_dtype or '16 bit'}, as released"


def _cache(inputs: InferenceInputs, model: ModelConfig, system: System) -> tuple[int | None, dict[str, Any]]:
    """(bits, other fields) of the KV cache.

    Raises:
        SpecError: an unknown format, or a width beside it.
    """
    given = inputs.kv_format
    name = None if given is None or given.strip().lower() == "auto" else given
    if name is None and inputs.kv_bits is None and _as_released(inputs) and system.family.serves_checkpoints:
        name = model.quantization.kv_format if model.quantization is not None else None
    if name is None:
        return inputs.kv_bits, {}
    if inputs.kv_bits is not None:
        raise SpecError(
            f"kv_format {given} and kv_bits {inputs.kv_bits} both say how the cache is stored; give one"
        )
    if not system.family.serves_checkpoints:
        raise SpecError(f"kv_format {given}: system {system.name} takes --kv-bits")
    name = format_name(name, tuple(KV_FORMATS), "kv_format")
    stored = KV_FORMATS[name]
    bits = next(width for width in (4, 8, 16) if stored < 2 * width)
    return bits, {
        "kv_stored_bits": None if stored == bits else stored,
        "kv_format": name if bits < 16 else "",
    }


def _nominal_bits(formats: WeightFormats) -> int:
    """The width that most matrices are said to have."""
    if formats.name in FORMATS:
        return FORMATS[formats.name].nominal_bits
    narrowest = min((entry.bits for row in formats.layers for entry in row), default=16.0)
    return 4 if narrowest < 7 else 8 if narrowest < 12 else 16


def _shorthand(inputs: InferenceInputs, system: System, kv_bits: int | None, facts: RunFacts) -> DtypeConfig:
    """One width for all matrices, from ``weight_bits`` or ``quant_bits``."""
    quantised = inputs.quant_bits is not None and inputs.quant_bits < 16
    if quantised and inputs.weight_bits not in (None, inputs.quant_bits):
        raise SpecError(
            f"weight_bits {inputs.weight_bits} and quant_bits {inputs.quant_bits} contradict each other"
        )
    weight_bits = (inputs.quant_bits if quantised else inputs.weight_bits) or 16
    quantised = quantised if facts.quantised is None else facts.quantised
    narrow_tables = quantised and system.family.quantises_embeddings
    embedding_bits = weight_bits if narrow_tables else max(16, inputs.activation_bits)
    dtype = DtypeConfig(
        weight_bits=weight_bits,
        activation_bits=inputs.activation_bits,
        embedding_bits=embedding_bits,
        kv_bits=kv_bits or inputs.activation_bits,
        quant_group_size=inputs.quant_group_size if quantised else None,
        # 8-bit caches have one scale per tensor or head; 4-bit ones need groups.
        kv_group_size=inputs.quant_group_size if kv_bits == 4 else None,
    )
    dtype = system.dtype_of(dict(vars(inputs)), dtype)
    if facts.group_sizes is None:
        return dtype
    of_weights, of_cache = facts.group_sizes
    return dtype.replace(quant_group_size=of_weights, kv_group_size=of_cache)
