"""What a checkpoint's ``quantization_config`` says: which matrices are stored in which number format."""

from collections.abc import Callable
from typing import Any

from pydantic import model_validator

from llm_perf.config.base import Spec
from llm_perf.config.formats import FORMATS, GGUF_MIXTURES, WEIGHT_FORMATS, NumberFormat, by_bits, format_name
from llm_perf.config.module_names import ModuleNames
from llm_perf.config.quantization_methods import EXPERTS, Fields, FormatRule, fields_of


class Quantization(Spec):
    """How a checkpoint was released, or is asked to be stored.

    Attributes:
        method: ``quant_method`` of the checkpoint, or the name of the format that was asked for.
        mixture: A llama.cpp file type whose own rule says what each tensor is, or None.
        rules: Formats; the first whose targets match a matrix holds.
        wide: Patterns of modules that stay in 16 bits.
        experts_only: Only routed experts are quantised (gpt-oss).
        kv_format: Format of the KV cache that the checkpoint was made for, or None.
        spelled: What its format is called where that says more than the rules, or None.
        head: The rule of a head that is stored otherwise than the matrices, and apart from a token table that it is tied
            to, or None.

    A mapping with ``quant_method`` or ``quant_algo`` is read as a Hugging Face ``quantization_config``.
    """

    method: str
    mixture: str | None = None
    rules: tuple[FormatRule, ...] = ()
    wide: tuple[str, ...] = ()
    experts_only: bool = False
    kv_format: str | None = None
    spelled: str | None = None
    head: FormatRule | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_hugging_face(cls, data: Any) -> Any:
        return fields_of(data) if isinstance(data, dict) and "method" not in data else data

    @property
    def name(self) -> str:
        """The format of most matrices."""
        return self.mixture or self.spelled or (self.rules[0].format if self.rules else "bf16")

    @property
    def kept_by_gguf(self) -> bool:
        """Whether llama.cpp's files of any name keep it: experts in MXFP4, as k-quants need rows of whole blocks of 256."""
        return {rule.format for rule in self.rules} == {"mxfp4"}

    def with_experts(self, name: str) -> "Quantization | None":
        """The same with experts in a format of the same kernels as theirs; None where they have none of their own.

        Publishers convert experts alone where these are stored in fewer bits than the rest: the ``quantization_config`` of
        nvidia/DeepSeek-V4-Flash-NVFP4 says ``moe_quant_algo: NVFP4``, and all else stays in the 8 bits of the release
        (vllm-project/recipes, pull request 541).
        """
        wanted, own = FORMATS.get(name), {rule.targets: rule.number_format for rule in self.rules}
        if wanted is None or len(own) < 2 or EXPERTS not in own or own[EXPERTS].kernels != wanted.kernels:
            return None
        mine = FormatRule(format=name, targets=EXPERTS)
        return self.replace(rules=tuple(mine if rule.targets == EXPERTS else rule for rule in self.rules))

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
    if (found := by_bits(name)) is not None:
        return Quantization(
            method=found.format,
            rules=(FormatRule(format=found.format, bits=found.bits),),
            wide=("lm_head",),
            spelled=name,
            head=FormatRule(format=found.format, bits=found.head_bits),
        )
    if name in GGUF_MIXTURES:
        return Quantization(method="gguf", mixture=name)
    return Quantization(method=name, rules=(FormatRule(format=name),), wide=("lm_head",))


def read_quantization(config: Fields, extra: Fields | None = None) -> Quantization | None:
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
    return Quantization(**fields_of(found))
