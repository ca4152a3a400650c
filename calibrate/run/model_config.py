"""Hugging Face configs of models: from a folder, from llm-perf's own specs with no network, or from the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_perf.config import files
from llm_perf.config.huggingface import from_hf_config
from llm_perf.config.loading import get_model_config_by_name
from llm_perf.config.model import LatentAttention, ModelConfig, MoEMLP
from llm_perf.config.names import normalise
from llm_perf.errors import EnvironmentFailure, SpecError

TINY_MODEL = "tiny-opt"
"""The embedded default: an OPT of four layers that runs anywhere in seconds."""

_TINY = {
    "vocab_size": 50272, "hidden_size": 256, "word_embed_proj_dim": 256, "ffn_dim": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 8, "max_position_embeddings": 2048,
}  # fmt: skip


def get_model_config(model_name: str) -> Any:
    """The transformers config of a model.

    ``opt-175b``, whose weights are not on the hub, is derived from opt-66b's config. A folder or a ``config.json`` is
    read as it is. Bundled models need no network; any other name is asked from the hub.

    Args:
        model_name: As ``--model``.

    Returns:
        A ``transformers.PretrainedConfig`` with the model's name in ``_name_or_path``.

    Raises:
        SpecError: unknown name, malformed file, or an architecture that transformers cannot build from the spec.
    """
    name = normalise(model_name)
    if is_embedded(model_name):
        return _named(_opt_config(**_TINY), TINY_MODEL)
    if name.rpartition("/")[2] in ("opt-175b", "facebook-opt-175b"):
        return _named(_opt_175b(), "facebook/opt-175b")
    folder = model_folder(model_name)
    if folder is not None:
        return _from_folder(folder)
    try:
        spec = get_model_config_by_name(model_name)
    except SpecError as unknown:
        return _from_hub(model_name, unknown)
    return _named(hf_config_of(spec), spec.name)


def is_embedded(model_name: str) -> bool:
    """Whether a name means the embedded model, for which there are only dummy weights."""
    return normalise(model_name) == TINY_MODEL


def model_folder(model_name: str) -> Path | None:
    """The folder that a name is, if it holds a ``config.json``; a path of the file itself means its folder."""
    path = Path(model_name).expanduser()
    if path.name == "config.json" and files.is_file(path):
        return path.parent
    return path if files.is_file(path / "config.json") else None


def spec_of(config: Any) -> ModelConfig:
    """llm-perf's view of a transformers config: the same shapes that run are predicted.

    Raises:
        SpecError: llm-perf does not know this architecture.
    """
    return from_hf_config(config.to_dict(), config.name_or_path or config.model_type)


def hf_config_of(spec: ModelConfig) -> Any:
    """The transformers config that builds the shapes of a spec.

    Raises:
        SpecError: the architecture has no converter; a folder with a ``config.json`` always works.
    """
    build = _FAMILIES.get(spec.family or "")
    if build is None or any(isinstance(group.attention, LatentAttention) for group in spec.layer_groups):
        raise SpecError(
            f"{spec.name}: no transformers config can be made from the bundled spec of family {spec.family!r} "
            f"(known: {', '.join(sorted(_FAMILIES))}); give --model a folder with its config.json"
        )
    return build(spec)


def _named(config: Any, name: str) -> Any:
    config.name_or_path = name
    return config


def _from_folder(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, OSError) as error:
        raise SpecError(
            f"{folder / 'config.json'}: transformers cannot read it: {_first_line(error)}"
        ) from None


def _from_hub(model_name: str, unknown: SpecError) -> Any:
    from transformers import AutoConfig

    from calibrate.run.hub import answers

    if "/" not in model_name:
        raise unknown
    online = answers()
    try:
        return AutoConfig.from_pretrained(model_name)
    except (ValueError, KeyError) as error:
        raise SpecError(f"{model_name}: transformers cannot read its config: {_first_line(error)}") from None
    except OSError:
        why = "the hub has no such config" if online else "the hub does not answer"
        raise EnvironmentFailure(f"{model_name} is no bundled model, and {why}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# -- one converter per family -----------------------------------------------------------------------------


def _opt_config(**shapes: Any) -> Any:
    from transformers import OPTConfig

    return OPTConfig(**shapes)


def _opt_175b() -> Any:
    config = hf_config_of(get_model_config_by_name("facebook/opt-66b"))
    config.hidden_size = config.word_embed_proj_dim = 12288
    config.ffn_dim = 4 * 12288
    config.num_attention_heads = 96
    config.num_hidden_layers = 96
    return config


def _opt(spec: ModelConfig) -> Any:
    return _opt_config(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        word_embed_proj_dim=spec.embedding_size or spec.hidden_size,
        ffn_dim=spec.ffn_embed_dim,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.n_head,
        max_position_embeddings=spec.max_position_embeddings or 2048,
        # OPT-350m is the one that normalises after each block, and has no final norm.
        do_layer_norm_before=spec.final_norm,
    )


def _bloom(spec: ModelConfig) -> Any:
    from transformers import BloomConfig

    return BloomConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        n_layer=spec.num_layers,
        n_head=spec.n_head,
        seq_length=spec.max_position_embeddings or 2048,
    )


def _llama_like(spec: ModelConfig) -> dict[str, Any]:
    attention = spec.layer_groups[0].attention
    return {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.ffn_embed_dim,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.n_head,
        "num_key_value_heads": spec.num_key_value_heads,
        "head_dim": getattr(attention, "head_dim", None),
        "max_position_embeddings": spec.max_position_embeddings or 4096,
        "tie_word_embeddings": spec.tied_embeddings,
    }


def _llama(spec: ModelConfig) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(**_llama_like(spec))


def _mistral(spec: ModelConfig) -> Any:
    from transformers import MistralConfig

    window = getattr(spec.layer_groups[0].attention, "window", None)
    return MistralConfig(**_llama_like(spec), sliding_window=window)


def _mixtral(spec: ModelConfig) -> Any:
    from transformers import MixtralConfig

    mlp = spec.layer_groups[-1].mlp
    if not isinstance(mlp, MoEMLP):
        raise SpecError(f"{spec.name}: family mixtral needs a mixture of experts")
    return MixtralConfig(
        **_llama_like(spec),
        num_local_experts=mlp.num_experts,
        num_experts_per_tok=mlp.top_k,
        sliding_window=getattr(spec.layer_groups[0].attention, "window", None),
    )


def _qwen2(spec: ModelConfig) -> Any:
    from transformers import Qwen2Config

    fields = _llama_like(spec)
    fields.pop("head_dim")
    return Qwen2Config(**fields, use_sliding_window=False)


def _gpt_neox(spec: ModelConfig) -> Any:
    from transformers import GPTNeoXConfig

    return GPTNeoXConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.ffn_embed_dim,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.n_head,
        max_position_embeddings=spec.max_position_embeddings or 2048,
        tie_word_embeddings=spec.tied_embeddings,
    )


def _gpt2(spec: ModelConfig) -> Any:
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=spec.vocab_size,
        n_embd=spec.hidden_size,
        n_layer=spec.num_layers,
        n_head=spec.n_head,
        n_positions=spec.max_position_embeddings or 1024,
    )


_FAMILIES: dict[str, Callable[[ModelConfig], Any]] = {
    "opt": _opt,
    "bloom": _bloom,
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "gpt_neox": _gpt_neox,
    "gpt2": _gpt2,
}
