"""What a row of the table of architectures says, and how a config becomes the fields of a model by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from llm_perf.config.huggingface.reader import FFN, LARGEST_SIZE, Config
from llm_perf.config.layers.attention import Attention
from llm_perf.config.layers.base import FeedForward, Mixer
from llm_perf.config.layers.experts import MoEMLP
from llm_perf.config.layers.feed_forward import DenseMLP, NoMLP
from llm_perf.config.layers.latent_attention import LatentAttention
from llm_perf.config.model import LayerGroup

FULL, SLIDING, CHUNKED, LINEAR = (
    "full_attention",
    "sliding_attention",
    "chunked_attention",
    "linear_attention",
)

Fact: TypeAlias = Any
"""A constant, the name of a flag of the config, or a function of the config."""
Pattern: TypeAlias = Callable[[Config], Callable[[int], Any]]
"""Of a config: what each layer is (a layer type, or whether it has experts)."""


def fact(c: Config, given: Fact) -> Any:
    """The value of a fact for one config."""
    if callable(given):
        return given(c)
    return c.flag(given) if isinstance(given, str) else given


def facts(c: Config, given: Mapping[str, Fact]) -> dict[str, Any]:
    """The values of several facts."""
    return {name: fact(c, value) for name, value in given.items()}


def always(what: Any) -> Pattern:
    """The same in every layer."""
    return lambda _: lambda _: what


_EVERYWHERE, _ALL_FULL = always(what=True), always(FULL)


def alternating(first: str, second: str) -> Pattern:
    """Two layer types in turn."""
    return lambda _: lambda layer: second if layer % 2 else first


def last_of(period: str, last: str, others: str) -> Pattern:
    """One layer type at the end of every ``period`` (a key of the config), another before it."""

    def pattern(c: Config) -> Callable[[int], str]:
        length = c.size(period)
        return lambda layer: others if (layer + 1) % length else last

    return pattern


def one_in(period: int, first: bool = False, ends: bool = False) -> Pattern:
    """One full layer in ``period``, the others local: its last, or its first; with ``ends`` the model's last layer too."""
    full = 0 if first else period - 1

    def pattern(c: Config) -> Callable[[int], str]:
        final = c.layers - 1 if ends else -1
        return lambda layer: FULL if layer % period == full or layer == final else SLIDING

    return pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts: the keys of one expert's width, what else it has, and in which layers it stands.

    ``dense`` are the keys of the width of a dense block in the other layers.
    """

    ffn: tuple[str, ...] = FFN
    facts: Mapping[str, Fact] = field(default_factory=dict)
    layers: Pattern = _EVERYWHERE
    dense: tuple[str, ...] = FFN

    def read(self, c: Config) -> MoEMLP:
        """The mixture that a config describes."""
        return MoEMLP.from_config(c, ffn_size=c.size(*self.ffn), **facts(c, self.facts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One architecture of known parts: its kinds of layers, the facts about them, and the config class's defaults.

    ``defaults`` None are those that `class_defaults` holds under the row's name, written from the config class. A fact is
    a constant, the name of a flag in the config, or a function of the config. ``mixers`` are further kinds by
    the name that ``layer_types`` (or ``pattern``, where the config has no such list) has for them; whatever these do
    not name is of kind ``mixer``. ``model`` are fields of the ModelConfig, ``shapeless`` keys that
    change no count in this family though they do in others. ``names`` are what the config calls a key that is asked for
    by another name. ``mlps`` gives every layer's block where they differ by more than experts; ``adapt`` changes a
    layer's mixer by its place, ``each`` gives fields of a layer group by layer (norms, cross-attention, other
    parameters). ``streams`` are those of hidden states, where there are several. ``encoder`` is the row of an encoder
    beside it, which reads the same config by its own ``names``, where ``encoder_if`` says that the model has it.
    """

    defaults: Mapping[str, Any] | None = field(default_factory=dict)
    mixer: type[Mixer] = Attention
    facts: Mapping[str, Fact] = field(default_factory=dict)
    mixers: Mapping[str, tuple[type[Mixer], Mapping[str, Fact]]] = field(default_factory=dict)
    pattern: Pattern = _ALL_FULL
    gated: Fact = True
    mlp_bias: Fact = False
    ffn_size: Fact = None
    no_mlp: bool = False
    experts: Experts | Callable[[Config], Experts | MoEMLP] | None = None
    norms: Fact = 2
    parallel: Fact = False
    model: Mapping[str, Fact] = field(default_factory=dict)
    shapeless: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    other_params: Fact = 0
    streams: Fact = None
    mlps: Callable[[Config], list[FeedForward]] | None = None
    each: Callable[[Config], Callable[[int], Mapping[str, Any]]] | None = None
    adapt: Callable[[Config], Callable[[int, Mixer], Mixer]] | None = None
    encoder: Family | None = None
    encoder_if: Callable[[Config], bool] | None = None

    def build(self, c: Config) -> dict[str, Any]:
        """The fields of a ModelConfig; equal layers make one group, in the order of their first."""
        c.read.update(".".join((*c.path, name)) for name in (*self.shapeless, *self._unused))
        c = c.renamed(self.names, c.defaults)
        groups = self._groups(c)
        has_encoder = self.encoder is not None and (self.encoder_if is None or self.encoder_if(c))
        beside = self.encoder.beside(c) if self.encoder is not None and has_encoder else {}
        return {
            "hidden_size": c.hidden,
            "vocab_size": c.size("vocab_size"),
            "max_position_embeddings": c.context,
            "layer_groups": groups,
            "tied_embeddings": c.flag("tie_word_embeddings", otherwise=True),
            "norm": "rmsnorm",
            **beside,
            **{name: value(c) if callable(value) else value for name, value in self.model.items()},
        }

    @property
    def _unused(self) -> tuple[str, ...]:
        """Keys that such layers have no use for, though configs carry them."""
        heads = ("num_key_value_heads", "head_dim", "qk_head_dim") if self.mixer is LatentAttention else ()
        return (*heads, *(() if self.experts is None else FFN))

    def beside(self, c: Config) -> dict[str, Any]:
        """The layers of an encoder beside a decoder."""
        return {
            "encoder_groups": self._groups(c.renamed(self.names, {**c.defaults, **(self.defaults or {})}))
        }

    def _groups(self, c: Config) -> tuple[LayerGroup, ...]:
        mixers, mlps = self._mixers(c), self.mlps(c) if self.mlps else self._mlps(c)
        common = {
            "norms": fact(c, self.norms),
            "parallel_attention": fact(c, self.parallel),
            "other_params": fact(c, self.other_params),
            "streams": fact(c, self.streams),
        }
        each = self.each(c) if self.each else lambda _: {}
        own = [tuple(each(layer).items()) for layer in range(len(mixers))]
        layers = Counter(zip(mixers, mlps, own, strict=True))
        return tuple(
            LayerGroup(count=count, attention=mixer, mlp=mlp, **{**common, **dict(of_layer)})
            for (mixer, mlp, of_layer), count in layers.items()
        )

    def _mixers(self, c: Config) -> list[Mixer]:
        """The mixer of every layer: as ``layer_types`` says, else as the family alternates."""
        listed = c.items("layer_types", str)
        pattern = self.pattern(c)
        types = listed or [pattern(layer) for layer in range(c.layers)]
        if len(types) != c.layers:
            raise c.fault("layer_types", types, f"{c.layers} entries, one per layer")
        found: dict[str, Mixer] = {}
        for name in dict.fromkeys(types):
            found[name] = self._mixer(c, name)
        mixers = [found[name] for name in types]
        if self.adapt is None:
            return mixers
        adapt = self.adapt(c)
        return [adapt(layer, mixer) for layer, mixer in enumerate(mixers)]

    def _mixer(self, c: Config, name: str) -> Mixer:
        if name in self.mixers:
            kind, given = self.mixers[name]
            return kind.from_config(c, **facts(c, given))
        plain = self.mixer.from_config(c, **facts(c, self.facts))
        if name == FULL or not isinstance(plain, Attention):
            if name == FULL:
                return plain
            raise c.fault("layer_types", name, f"one of {', '.join({FULL: 0, **self.mixers})}")
        if name == SLIDING:
            return plain.replace(window=c.window)
        chunk = c.count("attention_chunk_size")
        if name == CHUNKED:
            return plain.replace(chunk=chunk if chunk and chunk < (c.context or LARGEST_SIZE) else None)
        known = dict.fromkeys([FULL, SLIDING, CHUNKED, *self.mixers])
        raise c.fault("layer_types", name, f"one of {', '.join(known)}")

    def _mlps(self, c: Config) -> list[FeedForward]:
        if self.no_mlp:
            return [NoMLP()] * c.layers
        if self.experts is None:
            return [self._dense(c)] * c.layers
        experts = self.experts if isinstance(self.experts, Experts) else self.experts(c)
        if isinstance(experts, MoEMLP):
            return [experts] * c.layers
        has_experts = experts.layers(c)
        sparse, mixture = [has_experts(layer) for layer in range(c.layers)], experts.read(c)
        if all(sparse):
            return [mixture] * c.layers
        dense = DenseMLP(ffn_size=c.size(*experts.dense), gated=True, bias=fact(c, self.mlp_bias))
        return [mixture if each else dense for each in sparse]

    def _dense(self, c: Config) -> DenseMLP:
        """One block; a plain one is four times as wide as the hidden size where the config gives no width."""
        gated, bias = fact(c, self.gated), fact(c, self.mlp_bias)
        width = fact(c, self.ffn_size)
        if width is None:
            width = c.size(*FFN) if gated else c.optional(*FFN) or 4 * c.hidden
        return DenseMLP(ffn_size=width, gated=gated, bias=bias)
