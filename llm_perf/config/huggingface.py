"""Models from files: our own schema, seed 002's flat JSON, and Hugging Face's ``config.json``.

The defaults of absent keys are those of the config classes in transformers 5.17. A family is one row of
``_FAMILIES``: the function that builds its layers, and those defaults.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from llm_perf.config import files
from llm_perf.config.model import (
    Attention,
    DenseMLP,
    LatentAttention,
    LayerGroup,
    ModelConfig,
    MoEMLP,
    SeedArguments,
)
from llm_perf.errors import SpecError

AnyAttention: TypeAlias = Attention | LatentAttention
AnyMLP: TypeAlias = DenseMLP | MoEMLP
LayerKind: TypeAlias = Callable[[int], str]

_HUB_TIMEOUT_S = 5
_LARGEST_SIZE = 10**12
_MOST_LAYERS = 10_000

# The same fact under the names that families give it.
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HIDDEN = ("hidden_size", "n_embed", "n_embd", "d_model")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
_FFN = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_TOP_K = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token")

_FULL, _SLIDING, _CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


def load_model_file(path: Path) -> ModelConfig:
    """A model from a YAML or JSON file.

    Args:
        path: A file in our own schema, in seed 002's flat one (``num_layers``, ``n_head``, ``hidden_dim``, …)
            or a Hugging Face ``config.json``; or a folder that holds the latter.

    Raises:
        SpecError: the file cannot be read, is malformed, or describes no model that is supported; the message
            names file, line and field.
    """
    inside = path / "config.json"
    file = inside if files.is_file(inside) else path
    text = files.read_text(file)
    data = files.parse_mapping(text, str(file))
    if not _is_hf_config(data):
        return _own_model(data, text, str(file))
    try:
        return _convert(data, _name_of(data, file))
    except _FieldError as error:
        line = files.line_of(text, error.location)
        raise SpecError(f"{file}:{line}: {error}") from None
    except SpecError as error:
        raise SpecError(f"{file}: {error}") from None


def from_hf_config(config: dict[str, Any], name: str) -> ModelConfig:
    """A model from the content of a Hugging Face ``config.json``.

    Of a multimodal model (Gemma 3, Llama 4) this is the text part. Multi-token prediction modules, BERT's
    pooler and segment table, and whatever else a generation does not run, are left out.

    Args:
        config: The parsed file. ``model_type``, or else ``architectures``, selects the family.
        name: What the model shall be called; errors start with it.

    Raises:
        SpecError: an unsupported ``model_type`` (the supported ones are listed), a required field that is
            missing, or a value that cannot be.
    """
    try:
        return _convert(config, name)
    except SpecError as error:
        raise SpecError(f"{name}: {error}") from None


def load_from_hub(name: str) -> ModelConfig | None:
    """A model from the ``config.json`` of a repository on the Hugging Face hub.

    Args:
        name: ``organisation/model``; anything without a ``/`` is not asked for.

    Returns:
        The model, or None where huggingface_hub is not installed, the hub cannot be reached within seconds,
        or has no such model that may be read: then the caller's own error about the name is the better one.

    Raises:
        SpecError: the repository's config.json is malformed or its ``model_type`` unsupported.
    """
    if "/" not in name:
        return None
    try:
        file = _cached_config(name) or _downloaded_config(name)
    except Exception:  # noqa: BLE001 - whatever the network, the hub or its client raises: no answer from there
        return None
    return from_hf_config(files.parse_mapping(files.read_text(file), "config.json"), name)


def _cached_config(name: str) -> Path | None:
    """The config.json of an earlier download: a model's shapes do not change."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, "config.json", local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _downloaded_config(name: str) -> Path:
    """The config.json from the hub. It is asked once whether it has one, since a download tries again and again."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=_HUB_TIMEOUT_S)
    return Path(hf_hub_download(name, "config.json", etag_timeout=_HUB_TIMEOUT_S))


# -- reading fields --------------------------------------------------------------------------------------


class _FieldError(SpecError):
    """A fault of one field; ``location`` is its path in the file."""

    def __init__(self, location: tuple[str, ...], message: str) -> None:
        self.location = location
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class _Config:
    """The fields of a config.json over the defaults of its family, each checked when it is read.

    Several names are alternatives; the first that is there counts. A field that is null has no value, as in
    transformers; only an absent one has its default.
    """

    family: str
    fields: Mapping[str, Any]
    defaults: Mapping[str, Any]
    path: tuple[str, ...] = ()

    def sub(self, name: str, **defaults: Any) -> _Config:
        """The fields of a nested mapping."""
        fields = self.fields.get(name)
        if not isinstance(fields, dict):
            raise self.fault(name, fields, "a mapping")
        return _Config(self.family, fields, defaults, (*self.path, name))

    def size(self, *names: str) -> int:
        """A positive number that must be there."""
        value = self.optional(*names)
        if value is None:
            wanted = " or ".join(map(repr, names))
            raise _FieldError(self.path, f"field {wanted} is required for model_type {self.family!r}")
        return value

    def optional(self, *names: str) -> int | None:
        """A positive number, or None."""
        value = self.count(*names)
        if value == 0:
            raise self.fault(self._present(names), value, "a positive whole number")
        return value

    def count(self, *names: str) -> int | None:
        """A number that may be 0, or None."""
        name = self._present(names)
        value = self._value(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_SIZE:
            raise self.fault(name, value, "a positive whole number")
        return value

    def flag(self, name: str, otherwise: bool = False) -> bool:
        """A truth value; null is false."""
        value = self._value(name) if name in self.fields or name in self.defaults else otherwise
        if value is not None and not isinstance(value, bool):
            raise self.fault(name, value, "true or false")
        return bool(value)

    def items(self, name: str, kind: type) -> list[Any] | None:
        """A list with elements of one type, or None."""
        value = self._value(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(item) is kind for item in value):
            raise self.fault(name, value, f"a list of {kind.__name__}")
        return value

    def fault(self, name: str, value: object, accepted: str) -> _FieldError:
        """The error about one field's value."""
        text = repr(value)
        shown = text if len(text) <= 60 else text[:57] + "..."
        return _FieldError(
            (*self.path, name), f"{'.'.join((*self.path, name))} = {shown}: expected {accepted}"
        )

    def _present(self, names: tuple[str, ...]) -> str:
        return next(
            (name for known in (self.fields, self.defaults) for name in names if name in known), names[0]
        )

    def _value(self, name: str) -> Any:
        return self.fields[name] if name in self.fields else self.defaults.get(name)

    # -- facts that every family has ---------------------------------------------------------------------

    @property
    def hidden(self) -> int:
        return self.size(*_HIDDEN)

    @property
    def layers(self) -> int:
        layers = self.size(*_LAYERS)
        if layers > _MOST_LAYERS:
            raise self.fault(self._present(_LAYERS), layers, f"at most {_MOST_LAYERS} layers")
        return layers

    @property
    def context(self) -> int | None:
        return self.optional(*_CONTEXT)

    @property
    def window(self) -> int | None:
        """The sliding window, where there is one and a context can outgrow it."""
        window = self.count("sliding_window") if self.flag("use_sliding_window", otherwise=True) else None
        return window if window and window < (self.context or _LARGEST_SIZE) else None


@dataclass(frozen=True, slots=True)
class _Family:
    build: Callable[[_Config], dict[str, Any]]
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _own_model(data: dict[str, Any], text: str, where: str) -> ModelConfig:
    """A model in our own schema, or in seed 002's, its fields checked first: a fault then has its line."""
    if "layer_groups" not in data and ("num_layers" in data or "n_head" in data):
        flat = {key: value for key, value in data.items() if key in SeedArguments.model_fields}
        files.build(SeedArguments, flat, text, where)
    return files.build(ModelConfig, data, text, where)


def _is_hf_config(data: Mapping[str, Any]) -> bool:
    """Whether a mapping is a config.json. Seed 002's flat files have a ``model_type`` too, but a name."""
    if "layer_groups" in data or "hidden_dim" in data:
        return False
    return "architectures" in data or ("model_type" in data and "name" not in data)


def _name_of(data: Mapping[str, Any], file: Path) -> str:
    """The name that the config gives itself, unless that is a path; else the name of its folder or file."""
    given = data.get("_name_or_path")
    if isinstance(given, str) and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", given):
        return given
    if file.stem == "config":
        return file.resolve().parent.name or file.stem
    return file.stem


def _convert(config: Any, name: str) -> ModelConfig:
    """Build a model, or raise a SpecError whose message does not say yet where."""
    if not isinstance(config, dict):
        raise SpecError(f"expected a mapping of fields, found {type(config).__name__}")
    family, fields = _family_of(config), _Config("", config, {})
    if family in _TEXT_PART and "text_config" in config:
        fields = fields.sub("text_config")
    row = _FAMILIES[_TEXT_PART.get(family, family)]
    outer = {key: config[key] for key in ("tie_word_embeddings",) if key in config}
    reader = _Config(family, fields.fields, {**row.defaults, **outer}, fields.path)
    source = f"Hugging Face config.json, model_type {family}"
    return ModelConfig(name=name, family=family.removesuffix("_text"), source=source, **row.build(reader))


def _family_of(config: Mapping[str, Any]) -> str:
    given = config.get("model_type")
    if given is None:
        given = _type_of_architecture(config.get("architectures"))
    if isinstance(given, str) and (given in _FAMILIES or given in _TEXT_PART):
        return given
    supported = ", ".join(sorted(_FAMILIES.keys() | _TEXT_PART.keys()))
    named = "model_type" if "model_type" in config else "architectures"
    message = f"{named} = {config.get(named)!r}: not supported; supported model types: {supported}"
    raise _FieldError((named,), message)


def _type_of_architecture(architectures: Any) -> str | None:
    """The model type of a class name: ``GPTNeoXForCausalLM`` is ``gpt_neox``."""
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        return None
    plain = re.sub(r"(For\w+|LMHeadModel|Model)$", "", architectures[0]).lower()
    return next((family for family in _FAMILIES if family.replace("_", "") == plain), None)


# -- parts of models -------------------------------------------------------------------------------------


def _model(
    c: _Config,
    layers: Iterable[tuple[AnyAttention, AnyMLP]],
    norms: int = 2,
    parallel: bool = False,
    **other: Any,
) -> dict[str, Any]:
    """The fields of a ModelConfig; equal layers make one group, in the order of their first."""
    groups = tuple(
        LayerGroup(count=count, attention=attention, mlp=mlp, norms=norms, parallel_attention=parallel)
        for (attention, mlp), count in Counter(layers).items()
    )
    return {
        "hidden_size": c.hidden,
        "vocab_size": c.size("vocab_size"),
        "max_position_embeddings": c.context,
        "layer_groups": groups,
        "tied_embeddings": c.flag("tie_word_embeddings", otherwise=True),
        **other,
    }


def _attention(
    c: _Config,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    kv_heads: int | None = None,
    **other: Any,
) -> Attention:
    heads = c.size(*_HEADS)
    return Attention(
        num_heads=heads,
        num_kv_heads=kv_heads or c.optional(*_KV_HEADS) or heads,
        head_dim=_head_dim(c),
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        **other,
    )


def _head_dim(c: _Config) -> int:
    given = c.optional("head_dim")
    if given is not None:
        return given
    if c.hidden % c.size(*_HEADS):
        raise c.fault("hidden_size", c.hidden, f"a multiple of the {c.size(*_HEADS)} heads")
    return c.hidden // c.size(*_HEADS)


def _biased(c: _Config, name: str = "attention_bias") -> dict[str, bool]:
    """Biases on all four projections of the attention, where the config says so."""
    return {"qkv_bias": c.flag(name), "output_bias": c.flag(name)}


def _latent_attention(c: _Config) -> LatentAttention:
    return LatentAttention(
        num_heads=c.size(*_HEADS),
        q_lora_rank=c.optional("q_lora_rank"),
        kv_lora_rank=c.size("kv_lora_rank"),
        qk_nope_head_dim=c.size("qk_nope_head_dim"),
        qk_rope_head_dim=c.size("qk_rope_head_dim"),
        v_head_dim=c.size("v_head_dim"),
    )


def _attentions(c: _Config, attention: Attention, kind: LayerKind) -> list[Attention]:
    """The attention of every layer: as ``layer_types`` says, else as the family alternates."""
    kinds = c.items("layer_types", str) or [kind(layer) for layer in range(c.layers)]
    if len(kinds) != c.layers:
        raise c.fault("layer_types", kinds, f"{c.layers} entries, one per layer")
    chunk = c.count("attention_chunk_size")
    variants = {
        _FULL: attention,
        _SLIDING: attention.replace(window=c.window),
        _CHUNKED: attention.replace(chunk=chunk if chunk and chunk < (c.context or _LARGEST_SIZE) else None),
    }
    unknown = sorted(set(kinds) - variants.keys())
    if unknown:
        raise c.fault("layer_types", unknown[0], f"one of {', '.join(variants)}")
    return [variants[each] for each in kinds]


def _full(layer: int) -> str:  # noqa: ARG001 - one signature for all patterns
    return _FULL


def _sliding(layer: int) -> str:  # noqa: ARG001 - one signature for all patterns
    return _SLIDING


def _every_other_sliding(layer: int) -> str:
    return _FULL if layer % 2 else _SLIDING


def _mlp(c: _Config, *, gated: bool = False, bias: bool = True) -> DenseMLP:
    """A dense block; four times the hidden size where the config gives no width."""
    return DenseMLP(ffn_size=c.optional(*_FFN) or 4 * c.hidden, gated=gated, bias=bias)


def _experts(c: _Config, *ffn: str, **other: Any) -> MoEMLP:
    """A mixture whose experts are as wide as the field ``ffn`` says."""
    return MoEMLP(num_experts=c.size(*_EXPERTS), top_k=c.size(*_TOP_K), ffn_size=c.size(*ffn), **other)


def _mlps(c: _Config, experts: MoEMLP, sparse: Callable[[int], bool], *dense: str) -> list[AnyMLP]:
    """The feed-forward block of every layer: experts where ``sparse``, else one as wide as ``dense``."""
    layers = [sparse(layer) for layer in range(c.layers)]
    other: AnyMLP = experts if all(layers) else DenseMLP(ffn_size=c.size(*(dense or _FFN)), gated=True)
    return [experts if is_sparse else other for is_sparse in layers]


# -- families: LayerNorm, plain feed-forward -------------------------------------------------------------


def _classic(c: _Config, attention: Attention, mlp: DenseMLP, **other: Any) -> dict[str, Any]:
    return _model(c, [(attention, mlp)] * c.layers, **other)


def _opt(c: _Config) -> dict[str, Any]:
    """OPT (arXiv 2205.01068). Two rows of the position table are for padding; OPT-350m is post-norm."""
    bias, width = c.flag("enable_bias"), c.optional("word_embed_proj_dim")
    return _classic(
        c,
        _attention(c, qkv_bias=bias, output_bias=bias),
        _mlp(c, bias=bias),
        learned_positions=(c.context or 0) + 2,
        embedding_size=width if width != c.hidden else None,
        final_norm=c.flag("do_layer_norm_before") and not c.flag("_remove_final_layer_norm"),
    )


def _gpt2(c: _Config) -> dict[str, Any]:
    """GPT-2, and with one key and value head StarCoder (gpt_bigcode)."""
    kv_heads = 1 if c.flag("multi_query") else None
    attention = _attention(c, qkv_bias=True, output_bias=True, kv_heads=kv_heads)
    return _classic(c, attention, _mlp(c), learned_positions=c.context or 0)


def _gptj(c: _Config) -> dict[str, Any]:
    return _classic(c, _attention(c), _mlp(c), norms=1, parallel=True, lm_head_bias=True)


def _gpt_neox(c: _Config) -> dict[str, Any]:
    """GPT-NeoX (arXiv 2204.06745): parallel residual, but a norm each."""
    return _classic(c, _attention(c, **_biased(c)), _mlp(c), parallel=c.flag("use_parallel_residual"))


def _bloom(c: _Config) -> dict[str, Any]:
    return _classic(c, _attention(c, qkv_bias=True, output_bias=True), _mlp(c), embedding_norm=True)


def _falcon(c: _Config) -> dict[str, Any]:
    """Falcon (arXiv 2311.16867): 7B is multi-query with one norm, the new architecture grouped with two."""
    new, parallel = c.flag("new_decoder_architecture"), c.flag("parallel_attn")
    kv_heads = None if new else (1 if c.flag("multi_query") else c.size(*_HEADS))
    norms = (c.optional("num_ln_in_parallel_attn") or (2 if new else 1)) if parallel else 2
    attention = _attention(c, **_biased(c, "bias"), kv_heads=kv_heads)
    return _classic(c, attention, _mlp(c, bias=c.flag("bias")), norms=norms, parallel=parallel or new)


def _phi(c: _Config) -> dict[str, Any]:
    """Phi-1, 1.5 and 2: attention and feed-forward behind one norm, biases everywhere."""
    qk_norm = 4 * _head_dim(c) if c.flag("qk_layernorm") else 0
    attention = _attention(c, qkv_bias=True, output_bias=True, qk_norm=qk_norm)
    return _classic(c, attention, _mlp(c), norms=1, parallel=True, lm_head_bias=True)


def _mpt(c: _Config) -> dict[str, Any]:
    """MPT as released: ALiBi, and no bias anywhere."""
    mlp = DenseMLP(ffn_size=(c.optional("expansion_ratio") or 4) * c.hidden)
    return _classic(c, _attention(c), mlp, norm_bias=False)


def _starcoder2(c: _Config) -> dict[str, Any]:
    attention, mlp = _attention(c, **_biased(c, "use_bias")), _mlp(c, bias=c.flag("use_bias"))
    return _model(c, [(each, mlp) for each in _attentions(c, attention, _sliding)])


def _bert(c: _Config) -> dict[str, Any]:
    """BERT (arXiv 1810.04805): post-norm encoder; pooler and segment table left out."""
    return _classic(
        c,
        _attention(c, qkv_bias=True, output_bias=True),
        _mlp(c),
        learned_positions=c.context or 0,
        embedding_norm=True,
        final_norm=False,
        encoder=True,
    )


# -- families: RMSNorm, gated feed-forward ---------------------------------------------------------------


def _gated(c: _Config, attention: Attention, kind: LayerKind = _full, **other: Any) -> dict[str, Any]:
    mlp = DenseMLP(ffn_size=c.size(*_FFN), gated=True, bias=c.flag("mlp_bias"))
    return _model(
        c, [(each, mlp) for each in _attentions(c, attention, kind)], **{"norm": "rmsnorm", **other}
    )


def _llama(c: _Config) -> dict[str, Any]:
    return _gated(c, _attention(c, **_biased(c)))


def _internlm2(c: _Config) -> dict[str, Any]:
    return _gated(c, _attention(c, **_biased(c, "bias")))


def _mistral(c: _Config) -> dict[str, Any]:
    """Mistral (arXiv 2310.06825) and Phi-3: a sliding window in every layer, where there is one."""
    return _gated(c, _attention(c), _sliding)


def _late_sliding(c: _Config) -> LayerKind:
    first = c.count("max_window_layers") or 0
    return lambda layer: _SLIDING if layer >= first else _FULL


def _qwen2(c: _Config) -> dict[str, Any]:
    return _gated(c, _attention(c, qkv_bias=True), _late_sliding(c))


def _qwen3(c: _Config) -> dict[str, Any]:
    return _gated(c, _attention(c, **_biased(c), qk_norm=2 * _head_dim(c)), _late_sliding(c))


def _gemma(c: _Config) -> dict[str, Any]:
    return _gated(c, _attention(c, **_biased(c)))


def _gemma2(c: _Config) -> dict[str, Any]:
    """Gemma 2 (arXiv 2408.00118): norms before and after both blocks, every other layer local."""
    return _gated(c, _attention(c, **_biased(c)), _every_other_sliding, norms=4)


def _gemma3(c: _Config) -> dict[str, Any]:
    """Gemma 3 (arXiv 2503.19786): five local layers to a global one, norms on queries and keys."""
    period = c.size("sliding_window_pattern")
    attention = _attention(c, **_biased(c), qk_norm=2 * _head_dim(c))
    return _gated(c, attention, lambda layer: _SLIDING if (layer + 1) % period else _FULL, norms=4)


def _olmo(c: _Config) -> dict[str, Any]:
    """OLMo (arXiv 2402.00838): its norms have no weights."""
    return _gated(c, _attention(c, **_biased(c)), norm="layernorm", norms=0, final_norm=False)


def _olmo2(c: _Config) -> dict[str, Any]:
    """OLMo 2 (arXiv 2501.00656): queries and keys are normalised over all heads."""
    plain = _attention(c, **_biased(c))
    return _gated(c, plain.replace(qk_norm=(plain.num_heads + plain.num_kv_heads) * plain.head_dim))


# -- families: mixtures of experts -----------------------------------------------------------------------


def _sparse(
    c: _Config, attention: Attention, mlps: Iterable[AnyMLP], kind: LayerKind = _full, **other: Any
) -> dict[str, Any]:
    layers = zip(_attentions(c, attention, kind), mlps, strict=True)
    return _model(c, layers, **{"norm": "rmsnorm", **other})


def _everywhere(layer: int) -> bool:  # noqa: ARG001 - one signature for all patterns
    return True


def _mixtral(c: _Config) -> dict[str, Any]:
    return _sparse(c, _attention(c), _mlps(c, _experts(c, *_FFN), _everywhere), _sliding)


def _phimoe(c: _Config) -> dict[str, Any]:
    mlps = _mlps(c, _experts(c, *_FFN), _everywhere)
    head_bias = c.flag("lm_head_bias")
    attention = _attention(c, **_biased(c))
    return _sparse(c, attention, mlps, _sliding, norm="layernorm", lm_head_bias=head_bias)


def _gpt_oss(c: _Config) -> dict[str, Any]:
    """gpt-oss (arXiv 2508.10925): attention sinks, biases in experts and router, every other layer local."""
    mlps = _mlps(c, _experts(c, *_FFN, bias=True, router_bias=True), _everywhere)
    return _sparse(c, _attention(c, **_biased(c), sinks=True), mlps, _every_other_sliding)


def _sparse_steps(c: _Config) -> Callable[[int], bool]:
    """Qwen: every ``decoder_sparse_step``-th layer is a mixture, but those listed as dense."""
    step, dense = c.size("decoder_sparse_step"), set(c.items("mlp_only_layers", int) or ())
    return lambda layer: layer not in dense and (layer + 1) % step == 0


def _qwen2_moe(c: _Config) -> dict[str, Any]:
    shared = c.count("shared_expert_intermediate_size") or 0
    experts = _experts(c, "moe_intermediate_size", shared_ffn_size=shared, shared_gate=shared > 0)
    first_full = c.count("max_window_layers") or 0
    attention = _attention(c, qkv_bias=c.flag("qkv_bias"))
    mlps = _mlps(c, experts, _sparse_steps(c))
    return _sparse(c, attention, mlps, lambda i: _SLIDING if i % 2 == 0 and i < first_full else _FULL)


def _qwen3_moe(c: _Config) -> dict[str, Any]:
    mlps = _mlps(c, _experts(c, "moe_intermediate_size"), _sparse_steps(c))
    return _sparse(c, _attention(c, **_biased(c), qk_norm=2 * _head_dim(c)), mlps, _sliding)


def _deepseek(c: _Config, router_bias: bool = False) -> dict[str, Any]:
    """DeepSeek-V2 and V3 (arXiv 2405.04434, 2412.19437): first layers dense, shared experts beside."""
    first, step = c.count("first_k_dense_replace") or 0, c.optional("moe_layer_freq") or 1
    width, shared = c.size("moe_intermediate_size"), c.count("n_shared_experts") or 0
    experts = _experts(c, "moe_intermediate_size", shared_ffn_size=shared * width, router_bias=router_bias)
    mlps = _mlps(c, experts, lambda layer: layer >= first and layer % step == 0)
    return _model(c, [(_latent_attention(c), mlp) for mlp in mlps], norm="rmsnorm")


def _deepseek_v3(c: _Config) -> dict[str, Any]:
    """V3 balances its experts by a bias in the router; Kimi K2 has the same architecture."""
    return _deepseek(c, router_bias=True)


def _llama4(c: _Config) -> dict[str, Any]:
    """Llama 4, text part: chunked attention but in the layers without RoPE, one shared expert."""
    experts = _experts(c, "intermediate_size", shared_ffn_size=c.size("intermediate_size"))
    step, interval = c.size("interleave_moe_layer_step"), c.size("no_rope_layer_interval")
    listed = c.items("moe_layers", int)
    sparse = set(range(step - 1, c.layers, step) if listed is None else listed)
    mlps = _mlps(c, experts, lambda layer: layer in sparse, "intermediate_size_mlp")
    rope = c.items("no_rope_layers", int) or [int((i + 1) % interval != 0) for i in range(c.layers)]
    if len(rope) != c.layers:
        raise c.fault("no_rope_layers", rope, f"{c.layers} entries, one per layer")
    attention = _attention(c, **_biased(c))
    return _sparse(c, attention, mlps, lambda layer: _CHUNKED if rope[layer] else _FULL)


def _dbrx(c: _Config) -> dict[str, Any]:
    """DBRX: its norms have no bias."""
    attention, ffn = c.sub("attn_config", kv_n_heads=1), c.sub("ffn_config", moe_num_experts=4, moe_top_k=1)
    experts = MoEMLP(
        num_experts=ffn.size("moe_num_experts"),
        top_k=ffn.size("moe_top_k"),
        ffn_size=ffn.size("ffn_hidden_size"),
    )
    kv_heads = attention.size("kv_n_heads")
    layers = [(_attention(c, kv_heads=kv_heads), experts)] * c.layers
    return _model(c, layers, norm_bias=False)


# -- the table -------------------------------------------------------------------------------------------

_UNTIED = {"tie_word_embeddings": False}
_QWEN = {
    **_UNTIED,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_QWEN_MOE = {**_QWEN, "decoder_sparse_step": 1}
_LATENT = {
    **_UNTIED,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
}
_DEEPSEEK_V3 = {
    **_LATENT,
    "v_head_dim": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "max_position_embeddings": 4096,
}
_GPT2 = {"n_positions": 1024}
_FALCON = {"multi_query": True, "parallel_attn": True, "max_position_embeddings": 2048}
# Configs inside a multimodal one are stored without what equals the class's default: sizes need theirs.
_GEMMA3_TEXT = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
}
_LLAMA4_TEXT = {
    **_UNTIED,
    "vocab_size": 202_048,
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16_384,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "num_experts": 16,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1,
    "no_rope_layer_interval": 4,
    "attention_chunk_size": 8192,
}
_TEXT_PART = {"gemma3": "gemma3_text", "llama4": "llama4_text"}

_FAMILIES: Mapping[str, _Family] = {
    "opt": _Family(
        _opt, {"enable_bias": True, "do_layer_norm_before": True, "max_position_embeddings": 2048}
    ),
    "gpt2": _Family(_gpt2, _GPT2),
    "gpt_bigcode": _Family(_gpt2, {**_GPT2, "multi_query": True}),
    "gptj": _Family(_gptj, {**_UNTIED, "max_position_embeddings": 2048}),
    "gpt_neox": _Family(
        _gpt_neox,
        {**_UNTIED, "use_parallel_residual": True, "attention_bias": True, "max_position_embeddings": 2048},
    ),
    "bloom": _Family(_bloom),
    "falcon": _Family(_falcon, _FALCON),
    "RefinedWebModel": _Family(_falcon, _FALCON),  # Falcon-7B before transformers knew it
    "RefinedWeb": _Family(_falcon, {**_FALCON, "new_decoder_architecture": True}),  # Falcon-40B, likewise
    "mpt": _Family(_mpt, {"max_seq_len": 2048}),
    "starcoder2": _Family(_starcoder2, {"use_bias": True, "max_position_embeddings": 4096}),
    "bert": _Family(_bert, {"max_position_embeddings": 512}),
    "phi": _Family(_phi, {**_UNTIED, "max_position_embeddings": 2048}),
    "llama": _Family(_llama, {**_UNTIED, "max_position_embeddings": 2048}),
    "internlm2": _Family(_internlm2, {**_UNTIED, "bias": True, "max_position_embeddings": 2048}),
    "mistral": _Family(
        _mistral,
        {**_UNTIED, "num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131_072},
    ),
    "phi3": _Family(_mistral, {**_UNTIED, "max_position_embeddings": 4096}),
    "qwen2": _Family(_qwen2, _QWEN),
    "qwen3": _Family(_qwen3, {**_QWEN, "head_dim": 128}),
    "gemma": _Family(_gemma, {"head_dim": 256, "max_position_embeddings": 8192}),
    "gemma2": _Family(_gemma2, {"head_dim": 256, "sliding_window": 4096, "max_position_embeddings": 8192}),
    "gemma3_text": _Family(_gemma3, _GEMMA3_TEXT),
    "olmo": _Family(_olmo, {**_UNTIED, "max_position_embeddings": 2048}),
    "olmo2": _Family(_olmo2, {**_UNTIED, "max_position_embeddings": 2048}),
    "mixtral": _Family(
        _mixtral,
        {
            **_UNTIED,
            "num_key_value_heads": 8,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 131_072,
        },
    ),
    "phimoe": _Family(
        _phimoe,
        {
            **_UNTIED,
            "num_key_value_heads": 8,
            "num_experts": 16,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 131_072,
        },
    ),
    "qwen2_moe": _Family(
        _qwen2_moe,
        {
            **_QWEN_MOE,
            "qkv_bias": True,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
        },
    ),
    "qwen3_moe": _Family(
        _qwen3_moe,
        {**_QWEN_MOE, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    ),
    "gpt_oss": _Family(
        _gpt_oss,
        {
            **_UNTIED,
            "attention_bias": True,
            "num_experts": 128,
            "num_experts_per_tok": 4,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "sliding_window": 128,
            "max_position_embeddings": 131_072,
        },
    ),
    "deepseek_v2": _Family(
        _deepseek,
        {
            **_LATENT,
            "v_head_dim": 128,
            "n_shared_experts": 2,
            "n_routed_experts": 64,
            "max_position_embeddings": 2048,
        },
    ),
    "deepseek_v3": _Family(_deepseek_v3, _DEEPSEEK_V3),
    "kimi_k2": _Family(_deepseek_v3, _DEEPSEEK_V3),
    "llama4_text": _Family(_llama4, _LLAMA4_TEXT),
    "dbrx": _Family(_dbrx, {**_UNTIED, "max_seq_len": 2048}),
}
