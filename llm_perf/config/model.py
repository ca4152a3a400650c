"""ModelConfig: a model described as groups of equal layers."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from llm_perf.config.base import Name, NonNegativeInt, PositiveFloat, PositiveInt, Spec
from llm_perf.config.formats import WeightFormats
from llm_perf.config.layers.attention import Attention
from llm_perf.config.layers.base import FeedForward, Mixer
from llm_perf.config.layers.experts import MoEMLP
from llm_perf.config.layers.feed_forward import DenseMLP, NoMLP
from llm_perf.config.layers.latent_attention import LatentAttention
from llm_perf.config.layers.state_space import StateSpace
from llm_perf.config.layers.streams import Streams
from llm_perf.config.quantization import Quantization
from llm_perf.errors import SpecError

__all__ = [
    "Attention",
    "DenseMLP",
    "FeedForward",
    "LatentAttention",
    "LayerGroup",
    "Mixer",
    "MoEMLP",
    "ModelConfig",
    "NoMLP",
    "SeedArguments",
    "StateSpace",
    "Streams",
]

ParameterCount = Annotated[int, Field(strict=True, gt=0, le=10**15)]
"""Parameters of a whole model: the largest published ones pass the 1e12 that bounds a single dimension."""
ReleasedDtype = Literal["float32", "float16", "bfloat16"]
"""``torch_dtype`` of a checkpoint that is not quantised."""


def _mixer_or_none(data: Any) -> Mixer | None:
    return None if data is None else Mixer.of(data)


def _reads_encoder(mixer: Mixer) -> bool:
    return isinstance(mixer, Attention) and mixer.reads_encoder


class LayerGroup(Spec):
    """``count`` equal layers, wherever they stand in the model (local and global attention may alternate).

    ``norms`` is the number of normalisations over the hidden size. ``parallel_attention``: attention and MLP
    read the same input (GPT-J, Falcon), so that tensor parallelism needs one all-reduce per layer, not two.
    ``cross_attention`` reads the output of an encoder. ``other_params`` are elements of one layer that stand in none
    of its blocks: scales of a residual, relative positions, small projections. They take memory, their work is not counted.
    ``streams``: several hidden states run beside each other.
    """

    count: PositiveInt
    attention: Annotated[SerializeAsAny[Mixer], BeforeValidator(Mixer.of)]
    mlp: Annotated[SerializeAsAny[FeedForward], BeforeValidator(FeedForward.of)]
    norms: NonNegativeInt = 2
    parallel_attention: bool = False
    cross_attention: Annotated[SerializeAsAny[Mixer] | None, BeforeValidator(_mixer_or_none)] = None
    other_params: NonNegativeInt = 0
    streams: Streams | None = None


_SEED_FIELDS = (
    "name", "num_layers", "n_head", "hidden_dim", "vocab_size", "max_seq_len", "num_key_value_heads",
    "num_key_value_groups", "ffn_embed_dim", "expansion_ratio", "model_type", "moe_num_experts", "moe_top_k",
    "mlp_gated_linear_units",
)  # fmt: skip


class ModelConfig(Spec):
    """A transformer as its shapes. All sizes are in elements.

    ``embedding_size`` is the width of the token table where it differs from ``hidden_size`` (OPT-350m
    projects between them); ``learned_positions`` the rows of a learned position table (0 for RoPE and ALiBi).
    ``layer_groups`` stand in the order of their first layers. ``norm_bias`` defaults to what the norm has:
    LayerNorm a bias, RMSNorm none.
    ``encoder`` models have a prefill only. ``encoder_groups`` are the layers of the encoder beside a decoder of
    ``layer_groups``; such a model is counted, and not timed yet. ``other_params`` are elements outside the layers that no
    other field describes (segment tables, poolers, the transform of a masked head, an encoder's tables). ``ngram_params`` are
    those of tables of n-grams, ``layer_table_params`` of tables with a row of each token for every layer (Gemma 3n).
    ``left_out`` says what a config describes and no count here holds; every answer repeats it.
    ``beside_params`` are elements of the parts beside the text (towers of pictures and sound, projectors) that it names.
    ``quantization`` is how the checkpoint was released, where that is not 16 or 32
    bits, in the words of a Hugging Face ``quantization_config``; ``released_dtype`` its ``torch_dtype``; ``stored_formats``
    the types of the tensors of a file whose header was read; ``checkpoint_bytes`` what all tensors of the checkpoint take, as
    its index or header says; ``mtp_layers`` the multi-token prediction modules that the
    checkpoint holds beside the model; ``state_bits`` the width of recurrent states that it asks engines for.

    The constructor also takes seed 002's flat arguments (``num_layers, n_head, hidden_dim, …``): equal
    layers, no biases, weight-only norms, tied embeddings, which is what that description means there.
    """

    _positional: ClassVar[tuple[str, ...]] = _SEED_FIELDS

    name: Name
    aliases: tuple[str, ...] = ()
    family: str | None = None
    hidden_size: PositiveInt
    vocab_size: PositiveInt
    max_position_embeddings: PositiveInt | None = None
    layer_groups: tuple[LayerGroup, ...] = Field(min_length=1)
    embedding_size: PositiveInt | None = None
    learned_positions: NonNegativeInt = 0
    tied_embeddings: bool = True
    lm_head_bias: bool = False
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_bias: bool = True
    embedding_norm: bool = False
    final_norm: bool = True
    encoder: bool = False
    encoder_groups: tuple[LayerGroup, ...] = ()
    other_params: NonNegativeInt = 0
    ngram_params: NonNegativeInt = 0
    layer_table_params: NonNegativeInt = 0
    quantization: Quantization | None = None
    released_dtype: ReleasedDtype | None = None
    stored_formats: WeightFormats | None = None
    mtp_layers: NonNegativeInt = 0
    state_bits: Literal[16, 32] = 16
    checkpoint_bytes: ParameterCount | None = None
    published_params: ParameterCount | None = None
    published_active_params: ParameterCount | None = None
    source: str | None = None
    notes: str | None = None
    left_out: str | None = None
    beside_params: NonNegativeInt = 0

    @model_validator(mode="before")
    @classmethod
    def _from_seed_arguments(cls, data: Any) -> Any:
        return _native_model_fields(data) if isinstance(data, dict) and "layer_groups" not in data else data

    @model_validator(mode="before")
    @classmethod
    def _norm_bias_of_norm(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("norm") == "rmsnorm" and "norm_bias" not in data:
            return data | {"norm_bias": False}
        return data

    def without_windows(self) -> "ModelConfig":
        """The model as an engine runs it that knows no sliding window: every layer sees all tokens and keeps them."""
        windows = sorted(
            {
                window
                for group in self.layer_groups
                if (window := getattr(group.attention, "window", None)) is not None
            }
        )
        if not windows:
            return self
        groups = tuple(
            group.replace(attention=group.attention.replace(window=None))
            if isinstance(group.attention, Attention) and group.attention.window is not None
            else group
            for group in self.layer_groups
        )
        said = " and ".join(f"{window:,}" for window in windows)
        ignored = f"this engine ignores the model's window of {said} tokens: every layer sees all tokens, and keeps them"
        return self.replace(layer_groups=groups, left_out="; ".join(filter(None, (self.left_out, ignored))))

    def with_beside(self) -> "ModelConfig":
        """The model with the parts beside its text counted among its weights; their work is not.

        Raises:
            SpecError: it has none whose size is known.
        """
        if not self.beside_params:
            raise SpecError(
                f"{self.name}: no part beside its text is known, so there is nothing to count with it"
            )
        counted = f"counted in weights and memory, not in times: {self.beside_params / 1e9:.2f}e9 parameters beside the text"
        return self.replace(
            other_params=self.other_params + self.beside_params,
            beside_params=0,
            left_out="; ".join(filter(None, (counted, self.left_out))).replace(
                "text part only; left out", "they are"
            ),
        )

    @property
    def reads_encoder(self) -> bool:
        """Whether some layer attends to what an encoder returns."""
        attentions = [group.attention for group in self.layer_groups]
        crossed = any(group.cross_attention is not None for group in self.layer_groups)
        return bool(self.encoder_groups) or crossed or any(_reads_encoder(each) for each in attentions)

    @property
    def routes(self) -> bool:
        """Whether some layer has routed experts."""
        return any(group.mlp.routed_experts for group in self.layer_groups)

    # -- names of seed 002 and of Hugging Face configs, over the native fields ------------------------------

    @property
    def num_layers(self) -> int:
        """Layers of the whole model."""
        return sum(group.count for group in self.layer_groups)

    num_hidden_layers = num_layers

    @property
    def hidden_dim(self) -> int:
        """Seed 002's name of ``hidden_size``."""
        return self.hidden_size

    @property
    def max_seq_len(self) -> int | None:
        """Seed 002's name of ``max_position_embeddings``."""
        return self.max_position_embeddings

    @property
    def model_type(self) -> str | None:
        """Seed 002's name of ``family``."""
        return self.family

    @property
    def n_head(self) -> int:
        """Query heads of the first layer."""
        return self.layer_groups[0].attention.num_heads

    @property
    def num_key_value_heads(self) -> int:
        """Key and value heads of the first layer."""
        return self.layer_groups[0].attention.num_kv_heads

    @property
    def num_key_value_groups(self) -> int:
        """Query heads that share one key and value head."""
        return self.n_head // self.num_key_value_heads

    @property
    def ffn_embed_dim(self) -> int:
        """Width of one feed-forward block (of one expert in a mixture) of the last layer group."""
        return self.layer_groups[-1].mlp.ffn_size

    @property
    def expansion_ratio(self) -> float:
        """``ffn_embed_dim`` over ``hidden_dim``."""
        return self.ffn_embed_dim / self.hidden_size

    @property
    def moe_num_experts(self) -> int:
        """Routed experts per layer of the last layer group; 1 for a dense model."""
        return self.layer_groups[-1].mlp.routed_experts or 1

    @property
    def moe_top_k(self) -> int:
        """Routed experts that one token uses; 1 for a dense model."""
        return self.layer_groups[-1].mlp.experts_per_token or 1

    @property
    def mlp_gated_linear_units(self) -> bool:
        """Whether the feed-forward blocks are gated."""
        return self.layer_groups[-1].mlp.gated


class SeedArguments(Spec):
    """Seed 002's flat description of a model, checked before it is translated."""

    num_layers: PositiveInt
    n_head: PositiveInt
    hidden_dim: PositiveInt
    max_seq_len: PositiveInt | None = None
    num_key_value_heads: PositiveInt | None = None
    num_key_value_groups: PositiveFloat | None = None
    ffn_embed_dim: PositiveInt | None = None
    expansion_ratio: PositiveFloat | None = None
    model_type: str | None = None
    moe_num_experts: PositiveInt | None = None
    moe_top_k: PositiveInt | None = None
    mlp_gated_linear_units: bool | None = None

    @property
    def head_dim(self) -> int:
        """Elements of one head."""
        if self.hidden_dim % self.n_head:
            raise SpecError(f"hidden_dim {self.hidden_dim} is not a multiple of n_head {self.n_head}")
        return self.hidden_dim // self.n_head

    @property
    def kv_heads(self) -> int:
        """Key and value heads, given as such or as the number of query heads that share one."""
        heads, groups = self.num_key_value_heads, self.num_key_value_groups
        if groups is None:
            return heads or self.n_head
        if heads is None:
            return _whole(self.n_head / groups, f"n_head {self.n_head} / num_key_value_groups {groups}")
        if heads * groups != self.n_head:
            raise SpecError(
                f"num_key_value_heads {heads} x num_key_value_groups {groups} is not n_head {self.n_head}"
            )
        return heads

    @property
    def ffn_size(self) -> int:
        """Width of a feed-forward block, given as such or as a multiple (4 by default) of the hidden size."""
        ratio = self.expansion_ratio or 4
        if self.ffn_embed_dim is None:
            return _whole(self.hidden_dim * ratio, f"hidden_dim {self.hidden_dim} x expansion_ratio {ratio}")
        if self.expansion_ratio is not None and abs(self.hidden_dim * ratio - self.ffn_embed_dim) > 0.5:
            raise SpecError(
                f"ffn_embed_dim {self.ffn_embed_dim} and expansion_ratio {ratio} disagree"
                f" for hidden_dim {self.hidden_dim}"
            )
        return self.ffn_embed_dim

    @property
    def mlp(self) -> DenseMLP | MoEMLP:
        """The feed-forward block of every layer."""
        gated, experts, top_k = bool(self.mlp_gated_linear_units), self.moe_num_experts, self.moe_top_k
        if (experts or 1) == 1 and (top_k or 1) == 1:
            return DenseMLP(ffn_size=self.ffn_size, gated=gated)
        return MoEMLP(num_experts=experts or 1, top_k=top_k or 1, ffn_size=self.ffn_size, gated=gated)


def _whole(value: float, what: str) -> int:
    """A whole number that floating-point arithmetic may have missed by its rounding."""
    nearest = round(value)
    if nearest < 1 or abs(value - nearest) > 1e-9 * nearest:
        raise SpecError(f"{what} = {value:g} is no whole number")
    return nearest


def _native_model_fields(data: dict[str, Any]) -> dict[str, Any]:
    """Translate seed 002's flat arguments into native fields; leaves other keys to the field checks."""
    if "num_layers" not in data and "n_head" not in data:
        return data  # neither description: the missing native field is reported
    given = {field: data[field] for field in SeedArguments.model_fields if field in data}
    flat = SeedArguments(**given)
    attention = Attention(num_heads=flat.n_head, num_kv_heads=flat.kv_heads, head_dim=flat.head_dim)
    native = {
        "family": flat.model_type,
        "hidden_size": flat.hidden_dim,
        "max_position_embeddings": flat.max_seq_len,
        "layer_groups": (LayerGroup(count=flat.num_layers, attention=attention, mlp=flat.mlp),),
        "norm_bias": False,
    }
    rest = {field: value for field, value in data.items() if field not in given}
    clash = sorted(field for field in native if rest.get(field) is not None)
    if clash:
        raise SpecError(f"{clash[0]} is given twice, once under seed 002's name")
    return rest | native
