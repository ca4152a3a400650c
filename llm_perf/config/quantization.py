"""What a checkpoint's ``quantization_config`` says: which matrices are stored in which number format."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from pydantic import model_validator

from llm_perf.config.base import Spec
from llm_perf.config.formats import FORMATS, GGUF_MIXTURES, WEIGHT_FORMATS, NumberFormat, format_name
from llm_perf.errors import SpecError

_MOST_PATTERNS = 20_000
_LONGEST_PATTERN = 400
_REPEATED_GROUP = re.compile(r"\)[+*{]")
"""A repeated group may take exponential time to match; no list of modules needs one."""

_Fields = Mapping[str, Any]


class FormatRule(Spec):
    """Matrices whose module name matches one of ``targets`` (all where there is none) are stored in ``format``.

    ``group`` is the number of weights that share a scale, where it is not the format's usual one (0: a whole row);
    ``bits`` the width, and ``zero_bits`` that of a stored zero point, likewise.
    """

    format: str
    targets: tuple[str, ...] = ()
    group: int | None = None
    bits: int | None = None
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


class Quantization(Spec):
    """How a checkpoint was released, or is asked to be stored.

    Attributes:
        method: ``quant_method`` of the checkpoint, or the name of the format that was asked for.
        mixture: A llama.cpp file type whose own rule says what each tensor is, or None.
        rules: Formats; the first whose targets match a matrix holds.
        wide: Patterns of modules that stay in 16 bits.
        experts_only: Only routed experts are quantised (gpt-oss).
        kv_format: Format of the KV cache that the checkpoint was made for, or None.

    A mapping with ``quant_method`` or ``quant_algo`` is read as a Hugging Face ``quantization_config``.
    """

    method: str
    mixture: str | None = None
    rules: tuple[FormatRule, ...] = ()
    wide: tuple[str, ...] = ()
    experts_only: bool = False
    kv_format: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_hugging_face(cls, data: Any) -> Any:
        return _fields_of(data) if isinstance(data, dict) and "method" not in data else data

    @property
    def name(self) -> str:
        """The format of most matrices."""
        return self.mixture or (self.rules[0].format if self.rules else "bf16")

    def reader(self) -> Callable[[tuple[str, ...]], NumberFormat | None]:
        """A function from the names that a matrix may have to its format, None where it stays in 16 bits."""
        wide = ModuleNames(self.wide)
        rules = [
            (ModuleNames(rule.targets) if rule.targets else None, rule.number_format) for rule in self.rules
        ]

        def format_of(names: tuple[str, ...]) -> NumberFormat | None:
            if any(wide.match(name) for name in names):
                return None
            for targets, number_format in rules:
                if targets is None or any(targets.match(name) for name in names):
                    return number_format
            return None

        return format_of

    @property
    def names_layers(self) -> bool:
        """Whether single layers are named, so that layers may differ."""
        return ModuleNames(
            self.wide + tuple(name for rule in self.rules for name in rule.targets)
        ).names_layers


def named_quantization(name: str) -> Quantization | None:
    """A format by name, applied as its library applies it by default; None for 16 and 32 bits."""
    name = format_name(name, WEIGHT_FORMATS, "weight_format")
    if name in ("fp32", "fp16", "bf16"):
        return None
    if name in GGUF_MIXTURES:
        return Quantization(method="gguf", mixture=name)
    return Quantization(method=name, rules=(FormatRule(format=name),), wide=("lm_head",))


def read_quantization(config: _Fields, extra: _Fields | None = None) -> Quantization | None:
    """The quantisation of a checkpoint, or None.

    Args:
        config: ``quantization_config`` of config.json.
        extra: ``quantization`` of hf_quant_config.json (NVIDIA ModelOpt), which counts where config.json is silent.

    Raises:
        SpecError: an unknown method, or a value that cannot be; the message starts with ``quantization_config``.
    """
    found = config or extra
    if not found:
        return None
    return Quantization(**_fields_of(found))


# -- one reader per method --------------------------------------------------------------------------------


def _fault(name: str, value: object, accepted: str) -> SpecError:
    text = repr(value)
    shown = text if len(text) <= 60 else text[:57] + "..."
    return SpecError(f"quantization_config.{name} = {shown}: expected {accepted}")


def _width(config: _Fields, name: str, accepted: tuple[int, ...], default: int | None = None) -> int:
    value = config.get(name, default)
    if isinstance(value, bool) or value not in accepted:
        raise _fault(name, value, f"one of {', '.join(map(str, accepted))}")
    return int(value)


def _group(config: _Fields, name: str, default: int) -> int:
    """Weights that share a scale; -1 and null mean a whole row, which is 0 here."""
    value = config.get(name, default)
    if value is None or (value == -1 and not isinstance(value, bool)):
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise _fault(name, value, "a positive whole number or -1")
    return value


def _flag(config: _Fields, name: str, default: bool = False) -> bool:
    value = config.get(name, default)
    if value is not None and not isinstance(value, bool):
        raise _fault(name, value, "true or false")
    return bool(value)


def _patterns(config: _Fields, *names: str) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
            raise _fault(name, value, "a list of module names")
        if len(listed) > _MOST_PATTERNS:
            raise _fault(name, f"{len(listed)} names", f"at most {_MOST_PATTERNS} module names")
        for entry in listed:
            _compiled(entry)
        found += listed
    return tuple(found)


def _fields_of(config: _Fields) -> dict[str, Any]:
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


def _bitsandbytes_or_none(config: _Fields) -> str | None:
    return "bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & config.keys() else None


def _gptq(config: _Fields) -> dict[str, Any]:
    bits = _width(config, "bits", (2, 3, 4, 8))
    wide = () if _flag(config, "lm_head") else ("lm_head",)
    rule = FormatRule(format="gptq", bits=bits, group=_group(config, "group_size", 128), zero_bits=bits)
    return {"rules": (rule,), "wide": wide + _patterns(config, "modules_to_not_convert")}


def _awq(config: _Fields) -> dict[str, Any]:
    bits = _width(config, "bits" if "bits" in config else "w_bit", (4, 8), 4)
    group = _group(config, "group_size" if "group_size" in config else "q_group_size", 128)
    zeros = bits if _flag(config, "zero_point", True) else 0
    rule = FormatRule(format="awq", bits=bits, group=group, zero_bits=zeros)
    return {"rules": (rule,), "wide": ("lm_head", *_patterns(config, "modules_to_not_convert"))}


def _bitsandbytes(config: _Fields) -> dict[str, Any]:
    wide = ("lm_head", *_patterns(config, "llm_int8_skip_modules"))
    four = _flag(config, "load_in_4bit") or _flag(config, "_load_in_4bit")
    if four:
        doubled = _flag(config, "bnb_4bit_use_double_quant")
        return {"rules": (FormatRule(format="nf4_double" if doubled else "nf4"),), "wide": wide}
    if _flag(config, "load_in_8bit") or _flag(config, "_load_in_8bit"):
        return {"rules": (FormatRule(format="bnb_int8"),), "wide": wide}
    raise _fault("load_in_4bit", config.get("load_in_4bit"), "load_in_4bit or load_in_8bit to be true")


def _fp8(config: _Fields) -> dict[str, Any]:
    wide = ("lm_head", *_patterns(config, "modules_to_not_convert", "ignored_layers"))
    block = config.get("weight_block_size")
    if block is None:
        return {"rules": (FormatRule(format="fp8"),), "wide": wide}
    sizes = isinstance(block, list) and len(block) == 2
    if not sizes or not all(type(size) is int and 1 <= size <= 65536 for size in block):
        raise _fault("weight_block_size", block, "two positive whole numbers")
    return {"rules": (FormatRule(format="fp8_block", group=block[0] * block[1]),), "wide": wide}


def _mxfp4(config: _Fields) -> dict[str, Any]:
    wide = _patterns(config, "modules_to_not_convert")
    return {"rules": (FormatRule(format="mxfp4"),), "wide": wide, "experts_only": True}


def _compressed_tensors(config: _Fields) -> dict[str, Any]:
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


def _compressed_rule(weights: _Fields, activations: Any, targets: tuple[str, ...]) -> FormatRule:
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
        return FormatRule(format="mxfp4" if group == 32 else "nvfp4", targets=targets, group=group or 16)
    if kind == "float":
        raise _fault("weights.num_bits", bits, "4 or 8 for type float")
    if bits == 8 and isinstance(activations, dict):
        return FormatRule(format="int8", targets=targets, group=group)
    return FormatRule(format="int4", bits=bits, targets=targets, group=group, zero_bits=zeros)


def _modelopt(config: _Fields) -> dict[str, Any]:
    algorithm = config.get("quant_algo")
    if algorithm is None and isinstance(config.get("config_groups"), dict):
        return _compressed_tensors(config)
    plain = algorithm.upper() if isinstance(algorithm, str) else algorithm
    formats = {
        "FP8": "fp8", "FP8_PB_WO": "fp8_block", "FP8_PER_CHANNEL_PER_TOKEN": "fp8", "NVFP4": "nvfp4", "NVFP4_AWQ": "nvfp4",
        "W4A16_AWQ": "awq", "W4A8_AWQ": "awq", "INT4_AWQ": "awq", "W8A8_SQ_PER_CHANNEL": "int8", "W8A16": "int8_weight_only",
        "MXFP8": "mxfp8",
    }  # fmt: skip
    wide = _patterns(config, "exclude_modules", "ignore") or ("lm_head",)
    found: dict[str, Any] = {"wide": wide}
    if plain == "MIXED_PRECISION":
        found["rules"] = _mixed(config.get("quantized_layers"), formats)
    elif isinstance(plain, str) and plain in formats:
        name = formats[plain]
        group = _group(config, "group_size", -1)
        custom = name in ("nvfp4", "awq") and group > 0
        found["rules"] = (FormatRule(format=name, group=group if custom else None),)
    else:
        raise _fault("quant_algo", algorithm, "one of " + ", ".join((*formats, "MIXED_PRECISION")))
    cache = config.get("kv_cache_quant_algo")
    if isinstance(cache, str) and cache.upper() in ("FP8", "INT8"):
        found["kv_format"] = cache.lower()
    return found


def _mixed(layers: Any, formats: Mapping[str, str]) -> tuple[FormatRule, ...]:
    if not isinstance(layers, dict) or len(layers) > _MOST_PATTERNS:
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


def _torchao(config: _Fields) -> dict[str, Any]:
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
        name = "int8" if "dynamicactivation" in plain else "int8_weight_only"
        return {"rules": (FormatRule(format=name),), "wide": wide}
    raise _fault("quant_type", config.get("quant_type"), "an int4, int8 or float8 configuration of torchao")


def _quanto(config: _Fields) -> dict[str, Any]:
    names = {"int8": "int8_weight_only", "int4": "int4", "float8": "fp8"}
    kind = config.get("weights", "int8")
    if not isinstance(kind, str) or kind not in names:
        raise _fault("weights", kind, "one of " + ", ".join(names))
    return {
        "rules": (FormatRule(format=names[kind]),),
        "wide": ("lm_head", *_patterns(config, "modules_to_not_convert")),
    }


def _eetq(config: _Fields) -> dict[str, Any]:
    return {
        "rules": (FormatRule(format="int8_weight_only"),),
        "wide": ("lm_head", *_patterns(config, "modules_to_not_convert")),
    }


_METHODS: dict[str, Callable[[_Fields], dict[str, Any]]] = {
    "gptq": _gptq, "awq": _awq, "bitsandbytes": _bitsandbytes, "fp8": _fp8, "fbgemm_fp8": _fp8, "mxfp4": _mxfp4,
    "compressed-tensors": _compressed_tensors, "modelopt": _modelopt, "modelopt_fp4": _modelopt, "torchao": _torchao,
    "quanto": _quanto, "eetq": _eetq, "auto-round": _gptq,
}  # fmt: skip


# -- names of modules -------------------------------------------------------------------------------------


@lru_cache(maxsize=65536)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """A pattern that is an expression (``re:…``) or has wildcards; None for a plain name.

    Raises:
        SpecError: an expression that is none, or whose matching may not end.
    """
    if len(pattern) > _LONGEST_PATTERN:
        raise SpecError(f"quantization_config: a module name of {len(pattern)} characters is too long")
    if pattern.startswith("re:"):
        text = pattern[3:]
    elif "*" in pattern:
        text = fnmatch.translate(re.sub(r"\*+", "*", pattern))
    elif pattern.startswith("^") or "(?:" in pattern or ".*" in pattern:
        text = pattern
    else:
        return None
    if _REPEATED_GROUP.search(pattern) or pattern.count("*") + pattern.count("+") > 12:
        raise SpecError(
            f"quantization_config: the expression {pattern[:60]!r} repeats too much: give at most 12 repeats, none of a group"
        )
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise SpecError(f"quantization_config: {pattern[:60]!r} is no regular expression: {error}") from None


class ModuleNames:
    """A set of patterns, ready to be asked about many modules: the time of a question does not grow with names and prefixes.

    Expressions that name one layer are asked about that layer's modules alone.
    """

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._plain: set[str] = set()
        self._begun: set[str] = set()
        self._of_layers: dict[str, list[re.Pattern[str]]] = {}
        self._everywhere: list[re.Pattern[str]] = []
        for pattern in dict.fromkeys(patterns):
            expression = _compiled(pattern)
            if expression is None:
                self._plain.add(_bare(pattern))
            elif not pattern.startswith("re:") and _PREFIX.fullmatch(pattern):
                self._begun.add(pattern[:-1])
            else:
                layer = None if "|" in pattern else _ONE_LAYER.search(pattern)
                found = self._everywhere if layer is None else self._of_layers.setdefault(layer[1], [])
                found.append(expression)
        if len(self._everywhere) > _MOST_EXPRESSIONS:
            raise SpecError(
                f"quantization_config: {len(self._everywhere)} expressions about all layers: give at most {_MOST_EXPRESSIONS}"
            )
        self._lengths = sorted({len(begun) for begun in self._begun})
        self.names_layers = any(character.isdigit() for pattern in patterns for character in pattern)

    def match(self, module: str) -> bool:
        """Whether a pattern names a module: an expression, a wildcard, or a run of the module's name between dots."""
        parts = module.split(".")
        runs = (".".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1))
        if self._plain and any(run in self._plain for run in runs):
            return True
        names = [prefix + module for prefix in _PREFIXES]
        if any(name[:length] in self._begun for name in names for length in self._lengths):
            return True
        own = self._of_layers.get(parts[1], ()) if parts[0] == "layers" and len(parts) > 1 else ()
        return any(expression.match(name) for expression in (*own, *self._everywhere) for name in names)


_PREFIX = re.compile(r"[^*?\[\]]*\*")
"""A wildcard at the end alone."""
_ONE_LAYER = re.compile(r"layers\\?\.(\d+)(?:\\\.|\.(?![*+?{]))")
"""A layer's number between dots, none of them repeated."""
_MOST_EXPRESSIONS = 1000
_PREFIXES = ("model.", "", "language_model.model.", "model.language_model.")
"""What stands before ``layers.0`` in the names of modules; a plain name is compared without it."""


def _bare(name: str) -> str:
    name = name.removesuffix(".weight")
    start = name.find("layers.")
    return name[start:] if start > 0 and name[:start] in _PREFIXES else name
