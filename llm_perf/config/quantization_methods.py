"""One reader per ``quant_method`` of a ``quantization_config``: its fields as rules of number formats."""

from collections.abc import Callable, Mapping
from typing import Any

from llm_perf.config.base import Spec
from llm_perf.config.formats import FORMATS, NumberFormat
from llm_perf.config.module_names import MOST_PATTERNS, compiled
from llm_perf.errors import SpecError

Fields = Mapping[str, Any]

EXPERTS = ("mlp.experts",)
"""What the matrices of routed experts are called."""


class FormatRule(Spec):
    """Matrices whose module name matches one of ``targets`` (all where there is none) are stored in ``format``.

    ``group`` is the number of weights that share a scale, where it is not the format's usual one (0: a whole row);
    ``bits`` the width, and ``zero_bits`` that of a stored zero point, likewise.
    """

    format: str
    targets: tuple[str, ...] = ()
    group: int | None = None
    bits: float | None = None
    zero_bits: int | None = None

    @property
    def number_format(self) -> NumberFormat:
        """The format with this rule's group, width and zero points."""
        base = FORMATS[self.format]
        return NumberFormat(
            base.name,
            base.bits if self.bits is None else self.bits,
            base.kernels,
            base.group if self.group is None else self.group,
            base.scale_bits,
            base.zero_bits if self.zero_bits is None else self.zero_bits,
            base.super_group,
            base.super_bits,
        )


def _fault(name: str, value: object, accepted: str) -> SpecError:
    text = repr(value)
    shown = text if len(text) <= 60 else text[:57] + "..."
    return SpecError(f"quantization_config.{name} = {shown}: expected {accepted}")


def _width(config: Fields, name: str, accepted: tuple[int, ...], default: int | None = None) -> int:
    value = config.get(name, default)
    if isinstance(value, bool) or value not in accepted:
        raise _fault(name, value, f"one of {', '.join(map(str, accepted))}")
    return int(value)


def _group(config: Fields, name: str, default: int) -> int:
    """Weights that share a scale; -1 and null mean a whole row, which is 0 here."""
    value = config.get(name, default)
    if value is None or (value == -1 and not isinstance(value, bool)):
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise _fault(name, value, "a positive whole number or -1")
    return value


def _flag(config: Fields, name: str, default: bool = False) -> bool:
    value = config.get(name, default)
    if value is not None and not isinstance(value, bool):
        raise _fault(name, value, "true or false")
    return bool(value)


def _patterns(config: Fields, *names: str) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
            raise _fault(name, value, "a list of module names")
        if len(listed) > MOST_PATTERNS:
            raise _fault(name, f"{len(listed)} names", f"at most {MOST_PATTERNS} module names")
        for entry in listed:
            compiled(entry)
        found += listed
    return tuple(found)


def fields_of(config: Fields) -> dict[str, Any]:
    """The fields of a `llm_perf.config.quantization.Quantization` that a ``quantization_config`` describes.

    Raises:
        SpecError: an unknown method, or a value that cannot be.
    """
    method = config.get("quant_method")
    if method is None:
        method = "modelopt" if "quant_algo" in config else _bitsandbytes_or_none(config)
    if not isinstance(method, str) or method.lower() not in _METHODS:
        raise _fault("quant_method", method, "one of " + ", ".join(sorted(_METHODS)))
    method = method.lower()
    found = {"method": method} | _METHODS[method](config)
    unknown = [rule.format for rule in found.get("rules", ()) if rule.format not in FORMATS]
    if unknown:
        raise _fault("format", unknown[0], "a known number format")
    return found


def _bitsandbytes_or_none(config: Fields) -> str | None:
    return "bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & config.keys() else None


def _gptq(config: Fields) -> dict[str, Any]:
    bits = _width(config, "bits", (2, 3, 4, 8))
    wide = () if _flag(config, "lm_head") else ("lm_head",)
    rule = FormatRule(format="gptq", bits=bits, group=_group(config, "group_size", 128), zero_bits=bits)
    return {"rules": (rule,), "wide": wide + _patterns(config, "modules_to_not_convert")}


def _awq(config: Fields) -> dict[str, Any]:
    bits = _width(config, "bits" if "bits" in config else "w_bit", (4, 8), 4)
    group = _group(config, "group_size" if "group_size" in config else "q_group_size", 128)
    zeros = bits if _flag(config, "zero_point", True) else 0
    rule = FormatRule(format="awq", bits=bits, group=group, zero_bits=zeros)
    return {"rules": (rule,), "wide": ("lm_head", *_patterns(config, "modules_to_not_convert"))}


def _bitsandbytes(config: Fields) -> dict[str, Any]:
    wide = ("lm_head", *_patterns(config, "llm_int8_skip_modules"))
    four = _flag(config, "load_in_4bit") or _flag(config, "_load_in_4bit")
    if four:
        doubled = _flag(config, "bnb_4bit_use_double_quant")
        return {"rules": (FormatRule(format="nf4_double" if doubled else "nf4"),), "wide": wide}
    if _flag(config, "load_in_8bit") or _flag(config, "_load_in_8bit"):
        return {"rules": (FormatRule(format="bnb_int8"),), "wide": wide}
    raise _fault("load_in_4bit", config.get("load_in_4bit"), "load_in_4bit or load_in_8bit to be true")


def _fp8(config: Fields) -> dict[str, Any]:
    wide = ("lm_head", *_patterns(config, "modules_to_not_convert", "ignored_layers"))
    block = config.get("weight_block_size")
    if block is None:
        return {"rules": (FormatRule(format="fp8"),), "wide": wide}
    sizes = isinstance(block, list) and len(block) == 2
    if not sizes or not all(type(size) is int and 1 <= size <= 65536 for size in block):
        raise _fault("weight_block_size", block, "two positive whole numbers")
    rule = FormatRule(format="fp8_block", group=block[0] * block[1])
    experts = _experts_of_fp8(config)
    return {"rules": (*experts, rule), "wide": wide}


def _experts_of_fp8(config: Fields) -> tuple[FormatRule, ...]:
    """The rule of experts in 4 bits beside other matrices in 8 (DeepSeek-V4); none where they are as the others."""
    given = config.get("expert_dtype")
    if given not in (None, "fp4", "fp8"):
        raise _fault("expert_dtype", given, "fp4 or fp8")
    return (FormatRule(format="mxfp4", targets=EXPERTS),) if given == "fp4" else ()


def _mxfp4(config: Fields) -> dict[str, Any]:
    wide = _patterns(config, "modules_to_not_convert")
    return {"rules": (FormatRule(format="mxfp4"),), "wide": wide, "experts_only": True}


def _compressed_tensors(config: Fields) -> dict[str, Any]:
    groups = config.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise _fault("config_groups", groups, "a mapping of groups")
    rules = []
    for name, entry in groups.items():
        if not isinstance(entry, dict):
            raise _fault(f"config_groups.{name}", entry, "a mapping")
        weights = entry.get("weights")
        if weights is None:
            continue
        if not isinstance(weights, dict):
            raise _fault(f"config_groups.{name}.weights", weights, "a mapping")
        targets = tuple(target for target in _patterns(entry, "targets") if target != "Linear")
        rules.append(_compressed_rule(weights, entry.get("input_activations"), targets))
    found: dict[str, Any] = {
        "rules": tuple(sorted(rules, key=lambda rule: not rule.targets)),
        "wide": _patterns(config, "ignore"),
    }
    if any(not rule.targets for rule in rules) and not config.get("ignore"):
        found["wide"] = ()
    scheme = config.get("kv_cache_scheme")
    if isinstance(scheme, dict) and scheme.get("num_bits") == 8:
        found["kv_format"] = "fp8" if scheme.get("type") == "float" else "int8"
    return found


def _compressed_rule(weights: Fields, activations: Any, targets: tuple[str, ...]) -> FormatRule:
    bits = _width(weights, "num_bits", (2, 3, 4, 5, 6, 8), 8)
    kind = weights.get("type", "int")
    if kind not in ("int", "float"):
        raise _fault("weights.type", kind, "int or float")
    group = _group(weights, "group_size", -1)
    block = weights.get("block_structure")
    if isinstance(block, list) and len(block) == 2 and all(type(size) is int and size > 0 for size in block):
        group = block[0] * block[1]
    zeros = 0 if _flag(weights, "symmetric", True) else bits
    if kind == "float" and bits == 8:
        name = "mxfp8" if group == 32 else "fp8_block" if group else "fp8"
        return FormatRule(format=name, targets=targets, group=group or None)
    if kind == "float" and bits == 4:
        narrow = "nvfp4" if isinstance(activations, dict) else "nvfp4_weight_only"
        return FormatRule(format="mxfp4" if group == 32 else narrow, targets=targets, group=group or 16)
    if kind == "float":
        raise _fault("weights.num_bits", bits, "4 or 8 for type float")
    if bits == 8 and isinstance(activations, dict):
        return FormatRule(format="int8", targets=targets, group=group)
    return FormatRule(format="int4", bits=bits, targets=targets, group=group, zero_bits=zeros)


def _modelopt(config: Fields) -> dict[str, Any]:
    algorithm = config.get("quant_algo")
    if algorithm is None and isinstance(config.get("config_groups"), dict):
        return _compressed_tensors(config)
    plain = algorithm.upper() if isinstance(algorithm, str) else algorithm
    formats = {
        "FP8": "fp8", "FP8_PB_WO": "fp8_block", "FP8_PER_CHANNEL_PER_TOKEN": "fp8", "NVFP4": "nvfp4", "NVFP4_AWQ": "nvfp4",
        "W4A16_AWQ": "awq", "W4A8_AWQ": "awq", "INT4_AWQ": "awq", "W8A8_SQ_PER_CHANNEL": "int8", "W8A16": "int8_weight_only",
        "MXFP8": "mxfp8", "FP8_BLOCK_SCALES": "fp8_block", "W8A8_SQ_PER_TENSOR_PLUGIN": "int8", "INT8": "int8",
        "W8A16_GPTQ": "int8_weight_only", "W4A16": "int4", "W4A16_GPTQ": "gptq", "W4A8_NVFP4_FP8": "nvfp4",
        "W4A16_NVFP4": "nvfp4_weight_only", "W4A8_MXFP4_FP8": "mxfp4", "W4A8_MXFP4_MXFP8": "mxfp4", "W4A16_MXFP4": "mxfp4",
        "MXFP4": "mxfp4",
    }  # fmt: skip
    wide = _patterns(config, "exclude_modules", "ignore") or ("lm_head",)
    found: dict[str, Any] = {"wide": wide}
    if plain == "MIXED_PRECISION":
        found["rules"] = _mixed(config.get("quantized_layers"), formats)
    elif isinstance(plain, str) and plain in formats:
        name = formats[plain]
        group = _group(config, "group_size", -1)
        custom = name in ("nvfp4", "nvfp4_weight_only", "awq") and group > 0
        found["rules"] = (FormatRule(format=name, group=group if custom else None),)
    else:
        raise _fault("quant_algo", algorithm, "one of " + ", ".join((*formats, "MIXED_PRECISION")))
    cache = config.get("kv_cache_quant_algo")
    if isinstance(cache, str) and cache.upper() in ("FP8", "INT8"):
        found["kv_format"] = cache.lower()
    return found


def _mixed(layers: Any, formats: Mapping[str, str]) -> tuple[FormatRule, ...]:
    if not isinstance(layers, dict) or len(layers) > MOST_PATTERNS:
        raise _fault("quantized_layers", layers, "a mapping of module names")
    named: dict[str, list[str]] = {}
    for module, entry in layers.items():
        algorithm = entry.get("quant_algo") if isinstance(entry, dict) else None
        if not isinstance(algorithm, str) or algorithm.upper() not in formats:
            raise _fault(f"quantized_layers.{module}.quant_algo", algorithm, "one of " + ", ".join(formats))
        named.setdefault(formats[algorithm.upper()], []).append(module)
    return tuple(
        FormatRule(format=name, targets=_patterns({"targets": modules}, "targets"))
        for name, modules in named.items()
    )


def _torchao(config: Fields) -> dict[str, Any]:
    kind: Any = config.get("quant_type")
    group = 128
    if isinstance(kind, dict):
        kind = kind.get("default")
        data = kind.get("_data") if isinstance(kind, dict) else None
        if isinstance(data, dict):
            group = _group(data, "group_size", 128)
        kind = kind.get("_type") if isinstance(kind, dict) else kind
    elif isinstance(config.get("quant_type_kwargs"), dict):
        group = _group(config["quant_type_kwargs"], "group_size", 128)
    plain = kind.lower().replace("_", "") if isinstance(kind, str) else ""
    wide = ("lm_head", *_patterns(config, "modules_to_not_convert"))
    if "int4" in plain:
        return {"rules": (FormatRule(format="int4", group=group, zero_bits=16),), "wide": wide}
    if "float8" in plain:
        return {"rules": (FormatRule(format="fp8"),), "wide": wide}
    if "int8" in plain:
        name = "int8" if "dynamicactivation" in plain else "torchao_int8"
        return {"rules": (FormatRule(format=name),), "wide": wide}
    raise _fault("quant_type", config.get("quant_type"), "an int4, int8 or float8 configuration of torchao")


def _quanto(config: Fields) -> dict[str, Any]:
    names = {"int8": "int8_weight_only", "int4": "int4", "float8": "fp8"}
    kind = config.get("weights", "int8")
    if not isinstance(kind, str) or kind not in names:
        raise _fault("weights", kind, "one of " + ", ".join(names))
    return {
        "rules": (FormatRule(format=names[kind]),),
        "wide": ("lm_head", *_patterns(config, "modules_to_not_convert")),
    }


def _eetq(config: Fields) -> dict[str, Any]:
    return {
        "rules": (FormatRule(format="int8_weight_only"),),
        "wide": ("lm_head", *_patterns(config, "modules_to_not_convert")),
    }


_QUARK_TYPES = {
    "fp4": "mxfp4", "fp4_e2m1": "mxfp4", "mxfp4": "mxfp4", "nvfp4": "nvfp4", "fp8": "fp8", "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8", "mxfp8": "mxfp8", "int8": "int8", "uint8": "int8", "int4": "int4", "uint4": "int4",
}  # fmt: skip
"""Types of AMD Quark, whose FP4 is the MX one unless it has 16 weights to a scale."""


def _quark(config: Fields) -> dict[str, Any]:
    layers = config.get("layer_quant_config") or {}
    if not isinstance(layers, dict) or len(layers) > MOST_PATTERNS:
        raise _fault("layer_quant_config", layers, "a mapping of module names")
    rules = [_quark_rule(entry, f"layer_quant_config.{name}", (str(name),)) for name, entry in layers.items()]
    if config.get("global_quant_config"):
        rules.append(_quark_rule(config["global_quant_config"], "global_quant_config", ()))
    _patterns({"targets": [str(name) for name in layers]}, "targets")
    wide = _patterns(config, "exclude", "exclude_layers")
    return {"rules": tuple(rule for rule in rules if rule is not None), "wide": wide}


def _quark_rule(entry: Any, where: str, targets: tuple[str, ...]) -> FormatRule | None:
    weight = entry.get("weight") if isinstance(entry, dict) else entry
    if isinstance(weight, list) and weight:  # stages of a conversion: the last is what is stored
        weight = weight[-1]
    if weight is None:
        return None
    kind = weight.get("dtype") if isinstance(weight, dict) else weight
    if not isinstance(kind, str) or kind.lower() not in _QUARK_TYPES:
        raise _fault(f"{where}.weight.dtype", kind, "one of " + ", ".join(_QUARK_TYPES))
    name = _QUARK_TYPES[kind.lower()]
    group = _group(weight if isinstance(weight, dict) else {}, "group_size", -1)
    if name == "mxfp4" and group == 16:
        name = "nvfp4"
    zeros = 4 if kind.lower() == "uint4" else None
    return FormatRule(
        format=name, targets=targets, group=group if name == "int4" else group or None, zero_bits=zeros
    )


def _named(name: str, *excluded: str) -> Callable[[Fields], dict[str, Any]]:
    """A method that has one format, and a list of what it leaves wide."""

    def read(config: Fields) -> dict[str, Any]:
        wide = ("lm_head", *_patterns(config, "modules_to_not_convert", *excluded))
        return {"rules": (FormatRule(format=name),), "wide": wide}

    return read


def _fp_quant(config: Fields) -> dict[str, Any]:
    kind = config.get("forward_dtype", "nvfp4")
    if kind not in ("nvfp4", "mxfp4"):
        raise _fault("forward_dtype", kind, "nvfp4 or mxfp4")
    return _named(str(kind))(config)


def _hqq(config: Fields) -> dict[str, Any]:
    inner = config.get("quant_config", config)
    inner = inner.get("weight_quant_params", inner) if isinstance(inner, dict) else inner
    if not isinstance(inner, dict):
        raise _fault("quant_config", inner, "a mapping with nbits and group_size")
    bits = _width(inner, "nbits", (1, 2, 3, 4, 8), 4)
    rule = FormatRule(format="int4", bits=bits, group=_group(inner, "group_size", 64), zero_bits=16)
    return {"rules": (rule,), "wide": ("lm_head", *_patterns(config, "skip_modules"))}


def _bitnet(config: Fields) -> dict[str, Any]:
    """Ternary weights, four to a byte."""
    wide = ("lm_head", *_patterns(config, "modules_to_not_convert"))
    return {"rules": (FormatRule(format="int4", bits=2, group=0, zero_bits=0),), "wide": wide}


def _aqlm(config: Fields) -> dict[str, Any]:
    """Codes of whole groups of weights (arXiv 2401.06118)."""
    codes = _width(config, "num_codebooks", tuple(range(1, 9)), 1)
    bits = _width(config, "nbits_per_codebook", tuple(range(1, 17)), 16)
    group = _width(config, "in_group_size", (4, 8, 16, 32), 8)
    if codes * bits % group:
        raise _fault("in_group_size", group, f"a divisor of the {codes * bits} bits of a group")
    wide = ("lm_head", *_patterns(config, "linear_weights_not_to_quantize"))
    return {
        "rules": (FormatRule(format="int4", bits=codes * bits // group, group=0, zero_bits=0),),
        "wide": wide,
    }


_METHODS: dict[str, Callable[[Fields], dict[str, Any]]] = {
    "gptq": _gptq, "awq": _awq, "bitsandbytes": _bitsandbytes, "fp8": _fp8, "fbgemm_fp8": _fp8, "mxfp4": _mxfp4,
    "compressed-tensors": _compressed_tensors, "modelopt": _modelopt, "modelopt_fp4": _modelopt, "torchao": _torchao,
    "quanto": _quanto, "eetq": _eetq, "auto-round": _gptq, "quark": _quark, "fp_quant": _fp_quant, "hqq": _hqq,
    "bitnet": _bitnet, "aqlm": _aqlm, "nvfp4": _named("nvfp4", "ignore"), "mxfp8": _named("mxfp8", "ignored_layers"),
}  # fmt: skip
