"""ModelConfig: a model described as groups of equal layers."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from llm_perf.config.base import Name, NonNegativeInt, PositiveFloat, PositiveInt, Spec
from llm_perf.config.formats import WeightFormats
from llm_perf.config.quantization import Quantization
from llm_perf.errors import SpecError

ParameterCount = Annotated[int, Field(strict=True, gt=0, le=10**15)]
"""Parameters of a whole model: the largest published ones pass the 1e12 that bounds a single dimension."""


class Attention(Spec):
    """Multi-head attention with ``num_kv_heads`` shared by groups of query heads (MHA, GQA and MQA).

    ``window`` bounds how many of the latest tokens are attended to (sliding window); ``chunk`` bounds it to
    the tokens since the last multiple of ``chunk`` (Llama 4). ``qk_norm`` is the number of weights of the
    norms on queries and keys together (Qwen3: 2 x head_dim). ``sinks`` adds one learned logit per head.
    """

    kind: Literal["attention"] = "attention"
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: NonNegativeInt = 0
    window: PositiveInt | None = None
    chunk: PositiveInt | None = None
    sinks: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> Attention:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.window is not None and self.chunk is not None:
            raise ValueError("a layer has a sliding window or chunked attention, not both")
        return self


class StateSpace(Attention):
    """A layer that keeps a state of fixed size instead of keys and values: Mamba-2 or, with ``delta_rule``, gated DeltaNet.

    ``num_heads`` heads of ``head_dim`` values each hold a state of ``key_dim`` x ``head_dim``; ``key_heads`` heads of keys
    and queries (Mamba-2's groups of B and C) are shared by groups of them. A convolution over ``conv_width`` tokens comes
    first. It attends to one thing, its state: ``window`` is 1. Sources: arXiv 2405.21060 (Mamba-2), arXiv 2412.06464 (gated
    DeltaNet).
    """

    kind: Literal["state_space"] = "state_space"  # type: ignore[assignment]
    key_heads: PositiveInt
    key_dim: PositiveInt
    conv_width: PositiveInt = 4
    conv_bias: bool = False
    delta_rule: bool = False
    window: Literal[1] = 1

    @model_validator(mode="before")
    @classmethod
    def _a_state_for_every_head(cls, data: Any) -> Any:
        return {"num_kv_heads": data.get("num_heads")} | data if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _key_heads_divide(self) -> StateSpace:
        if self.num_heads % self.key_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of key_heads {self.key_heads}")
        return self

    @property
    def state_elements(self) -> int:
        """Elements of one sequence's state and of the tokens that its convolution keeps."""
        return self.num_heads * self.key_dim * self.head_dim + (self.conv_width - 1) * self.conv_channels

    @property
    def conv_channels(self) -> int:
        """Values, keys and queries, which the convolution runs over."""
        return self.num_heads * self.head_dim + 2 * self.key_heads * self.key_dim

    @property
    def gates_per_head(self) -> int:
        """Scalars per head and token: Mamba-2's step, gated DeltaNet's decay and write strength."""
        return 2 if self.delta_rule else 1

    @property
    def vector_elements(self) -> int:
        """Weights that are no matrices: convolution, decay and step per head (Mamba-2 has a skip as well), gated norm."""
        per_head, norm = (2, self.head_dim) if self.delta_rule else (3, self.num_heads * self.head_dim)
        taps = self.conv_width + (1 if self.conv_bias else 0)
        return taps * self.conv_channels + per_head * self.num_heads + norm


class LatentAttention(Spec):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): the cache holds one latent per token."""

    kind: Literal["latent_attention"] = "latent_attention"
    num_heads: PositiveInt
    q_lora_rank: PositiveInt | None = None
    kv_lora_rank: PositiveInt
    qk_nope_head_dim: PositiveInt
    qk_rope_head_dim: PositiveInt
    v_head_dim: PositiveInt

    @property
    def num_kv_heads(self) -> int:
        """Every head has its own key and value once the latent is expanded."""
        return self.num_heads

    @property
    def head_dim(self) -> int:
        """Elements of one query head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def window(self) -> int | None:
        """Latent attention is always over the whole context."""
        return None

    chunk = window


class DenseMLP(Spec):
    """A feed-forward block: 2 matrices, or 3 when ``gated`` (GLU variants)."""

    kind: Literal["dense"] = "dense"
    ffn_size: PositiveInt
    gated: bool = False
    bias: bool = False


class NoMLP(DenseMLP):
    """No feed-forward block: pure state-space models have none."""

    kind: Literal["none"] = "none"  # type: ignore[assignment]
    ffn_size: Literal[0] = 0


class MoEMLP(Spec):
    """A mixture of experts: ``top_k`` of ``num_experts`` per token, plus experts that every token uses.

    ``shared_ffn_size`` is the width of all shared experts together; ``shared_gate`` a scalar gate on them
    (Qwen1.5-MoE); ``router_bias`` one learned value per expert.
    """

    kind: Literal["moe"] = "moe"
    num_experts: PositiveInt
    top_k: PositiveInt
    ffn_size: PositiveInt
    gated: bool = True
    bias: bool = False
    shared_ffn_size: NonNegativeInt = 0
    shared_gate: bool = False
    router_bias: bool = False

    @model_validator(mode="after")
    def _top_k_of_experts(self) -> MoEMLP:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k {self.top_k} is more than num_experts {self.num_experts}")
        return self


class LayerGroup(Spec):
    """``count`` equal layers, wherever they stand in the model (local and global attention may alternate).

    ``norms`` is the number of normalisations over the hidden size. ``parallel_attention``: attention and MLP
    read the same input (GPT-J, Falcon), so that tensor parallelism needs one all-reduce per layer, not two.
    """

    count: PositiveInt
    attention: Annotated[Attention | LatentAttention | StateSpace, Field(discriminator="kind")]
    mlp: Annotated[DenseMLP | MoEMLP | NoMLP, Field(discriminator="kind")]
    norms: NonNegativeInt = 2
    parallel_attention: bool = False

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, data: Any) -> Any:
        """``kind`` may be left out of a YAML file for plain attention and a dense MLP."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for field, kind in (("attention", "attention"), ("mlp", "dense")):
            if isinstance(data.get(field), dict):
                data[field] = {"kind": kind, **data[field]}
        return data


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
    ``encoder`` models have a prefill only. ``quantization`` is how the checkpoint was released, where that is not 16 or 32
    bits, in the words of a Hugging Face ``quantization_config``; ``released_dtype`` its ``torch_dtype``; ``stored_formats``
    the types of the tensors of a file whose header was read; ``mtp_layers`` the multi-token prediction modules that the
    checkpoint holds beside the model.

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
    quantization: Quantization | None = None
    released_dtype: Literal["float32", "float16", "bfloat16"] | None = None
    stored_formats: WeightFormats | None = None
    mtp_layers: NonNegativeInt = 0
    published_params: ParameterCount | None = None
    published_active_params: ParameterCount | None = None
    source: str | None = None
    notes: str | None = None

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
        mlp = self.layer_groups[-1].mlp
        return mlp.num_experts if isinstance(mlp, MoEMLP) else 1

    @property
    def moe_top_k(self) -> int:
        """Routed experts that one token uses; 1 for a dense model."""
        mlp = self.layer_groups[-1].mlp
        return mlp.top_k if isinstance(mlp, MoEMLP) else 1

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
