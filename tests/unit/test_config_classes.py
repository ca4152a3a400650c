"""Every architecture of the table against the classes of transformers: parameters, and the default of every key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_perf.config.huggingface import from_hf_config
from llm_perf.config.huggingface.convert import _row_and_reader
from llm_perf.config.huggingface.families import FAMILIES
from llm_perf.config.huggingface.wrappers import WRAPPERS
from llm_perf.config.model import Attention, ModelConfig, MoEMLP
from llm_perf.config.scenario import check_timed
from llm_perf.counts.attention import kv_cache_elements
from llm_perf.counts.parameters import active_params, total_params
from llm_perf.errors import SpecError

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "class_defaults.json").read_text("utf-8"))["models"]
HEADS = ("num_attention_heads", "n_head", "n_heads")
KV = ("num_key_value_heads", "num_kv_heads", "head_dim")

NOT_ITS_OWN_FILE = {"bailing_hybrid"}
"""Bailing writes the rotary width as ``head_dim`` and reads that key as the width of its linear heads."""


def router_buffers(model: ModelConfig) -> int:
    """Biases of routers, which transformers keeps as buffers in some classes."""
    return sum(
        group.count * group.mlp.num_experts
        for group in model.layer_groups
        if isinstance(group.mlp, MoEMLP) and group.mlp.router_bias
    )


@pytest.mark.parametrize("model_type", sorted(GOLDEN))
def test_parameters_are_those_of_the_class(model_type: str) -> None:
    known = GOLDEN[model_type]
    model = from_hf_config(known["config"], model_type)
    for ours, theirs in (
        (total_params(model), known["parameters"]),
        (active_params(model), known["active_parameters"]),
    ):
        assert theirs is None or ours in (theirs, theirs + router_buffers(model))


@pytest.mark.parametrize(
    "model_type", [name for name in sorted(GOLDEN) if GOLDEN[name]["cache_elements_32k"]]
)
def test_the_cache_is_that_of_the_class(model_type: str) -> None:
    """The class counts a ring's position, or the token that a window is about to drop: bytes, not tokens."""
    model = from_hf_config(GOLDEN[model_type]["config"], model_type)
    assert kv_cache_elements(model, 32768) == pytest.approx(
        GOLDEN[model_type]["cache_elements_32k"], rel=1e-5
    )


def test_the_table_is_covered() -> None:
    assert len(GOLDEN) >= 258
    assert GOLDEN.keys() <= FAMILIES.keys() | WRAPPERS.keys()


BUILT = [
    *("afmoe", "axk1", "bart", "bert", "cpmant", "electra", "ernie4_5_moe", "gemma3n_text", "gemma4_text"),
    *(
        "gpt_neo",
        "led",
        "longformer",
        "luke",
        "mimo_v2_flash",
        "modernbert",
        "moshi",
        "persimmon",
        "prophetnet",
    ),
    *("rembert", "switch_transformers", "t5", "umt5", "whisper", "xlnet", "xmod"),
]


def built(config: Any, model_type: str) -> int:
    """Parameters of the class of a type, built without memory by the transformers that is installed."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    auto = pytest.importorskip("transformers.models.auto.modeling_auto")
    named = {**auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, **auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    if model_type not in named and model_type not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        pytest.skip("transformers has no class of this type")
    cls = getattr(transformers, named.get(model_type) or auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES[model_type])
    with torch.device("meta"):
        model = cls._from_config(config)
    model.tie_weights()
    return sum(each.numel() for each in model.parameters())


@pytest.mark.parametrize("model_type", BUILT)
def test_the_class_builds_what_is_counted(model_type: str) -> None:
    """One of each way to count."""
    auto = pytest.importorskip("transformers.models.auto.configuration_auto")
    config = auto.CONFIG_MAPPING[model_type]()
    ours = from_hf_config(whole(config, model_type), model_type)
    theirs = built(config, model_type)
    assert total_params(ours) in (theirs, theirs + router_buffers(ours))


DEPTHS = ("num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")


# Their default configs do not fit four layers.
DEEP = {"gemma3n_text", "gpt_neo"}


@pytest.mark.parametrize(
    "model_type", [*sorted({*BUILT} - DEEP), "gpt_bigcode", "roc_bert", "roberta", "solar_open"]
)
def test_what_a_key_changes_is_what_it_changes_in_the_class(model_type: str) -> None:
    """Each number doubled and each flag turned in four layers: the class agrees, it refuses, or the row does."""
    auto = pytest.importorskip("transformers.models.auto.configuration_auto")
    cls = auto.CONFIG_MAPPING[model_type]
    small = {name: 4 for name in DEPTHS if isinstance(getattr(cls, name, None), int)}
    fields = whole(cls(**small), model_type)
    row, reader = _row_and_reader(model_type, fields)
    row.build(reader)
    compared = 0
    for key in sorted((reader.read & fields.keys()) - set(DEPTHS)):
        value = fields[key]
        if not isinstance(value, int):
            continue
        try:
            config = cls(**small, **{key: not value if isinstance(value, bool) else 2 * value})
            theirs = built(config, model_type)
            ours = from_hf_config(whole(config, model_type), "m")
        except Exception:  # noqa: BLE001 - whichever side refuses, each class with an error of its own
            continue
        compared += 1
        assert total_params(ours) in (theirs, theirs + router_buffers(ours)), key
    assert compared >= 3


WRONG: tuple[Any, ...] = (None, "x", -1, 0, [], {}, 1.5, True, 10**13, ["x"], [1], {"a": 1}, [[1]], 3)


@pytest.mark.parametrize("model_type", sorted(GOLDEN))
def test_a_wrong_value_is_one_line_or_a_model(model_type: str) -> None:
    """Every key of every type with two of the wrong values, a different pair each: never a traceback."""
    config = GOLDEN[model_type]["config"]
    row, reader = _row_and_reader(model_type, config)
    row.build(reader)
    said: list[str] = []
    for place, path in enumerate(sorted(reader.read)):
        for value in (WRONG[(place + len(model_type)) % len(WRONG)], WRONG[(3 * place + 1) % len(WRONG)]):
            try:
                total_params(from_hf_config(_with(config, path.split("."), value), "m"))
            except SpecError as error:
                said.append(str(error))
    assert said
    assert not any("\n" in line for line in said)


def _with(config: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """A copy with one key replaced, nested ones included; keys of parts that are not there stay away."""
    first, *rest = path
    if not rest:
        return {**config, first: value}
    inner = config.get(first)
    return {**config, first: _with(inner, rest, value)} if isinstance(inner, dict) else config


def test_an_encoder_decoder_is_counted_with_its_encoder_and_not_timed() -> None:
    config = GOLDEN["bart"]["config"]
    alone = from_hf_config(config, "m")
    whole_ = from_hf_config({**config, "architectures": ["BartForConditionalGeneration"]}, "m")
    assert not alone.encoder_groups
    # facebook/bart-large: 406,291,456 parameters in its checkpoint.
    assert total_params(whole_) == 406_291_456
    assert [group.count for group in whole_.encoder_groups] == [12]
    for model in (alone, whole_):
        with pytest.raises(SpecError, match="reads an encoder's output"):
            check_timed(model)


def test_a_layer_that_reuses_a_cache_keeps_nothing_and_reads_it() -> None:
    own = Attention(num_heads=8, num_kv_heads=2, head_dim=64, window=100)
    late = own.replace(reuses_cache=True)
    assert own.cache_elements(1000) == 100 * 2 * 2 * 64
    assert late.cache_elements(1000) == 0
    assert late.read_elements() == own.read_elements()
    saved = sum(linear.params for linear in own.linears(512)) - sum(
        linear.params for linear in late.linears(512)
    )
    assert saved == 2 * 2 * 64 * 512


def test_narrow_values_count_once_each() -> None:
    wide = Attention(num_heads=8, num_kv_heads=2, head_dim=96)
    narrow = wide.replace(v_head_dim=32)
    assert narrow.cache_elements_per_token() == 2 * (96 + 32)
    assert narrow.score_flops_per_pair() == 2 * 8 * (96 + 32)
    weights = {linear.op: 0 for linear in narrow.linears(512)}
    for linear in narrow.linears(512):
        weights[linear.op] += linear.weights
    assert weights == {"qkv": 512 * (8 * 96 + 2 * 96 + 2 * 32), "attention_output": 512 * 8 * 32}


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_an_absent_key_has_the_default_of_the_class(model_type: str) -> None:
    """Each key left out in turn: what transformers fills in gives the same model, or ours is refused."""
    auto = pytest.importorskip("transformers.models.auto.configuration_auto")
    if model_type not in auto.CONFIG_MAPPING:
        pytest.skip("transformers has no class of this type")
    cls = auto.CONFIG_MAPPING[model_type]
    base = whole(cls(), model_type)
    row, reader = _row_and_reader(model_type, base)
    try:
        row.build(reader)
    except SpecError:
        pytest.skip("the default config itself is refused")
    if model_type in NOT_ITS_OWN_FILE:
        pytest.skip("the class reads its own file otherwise than it was written")
    heads = next((name for name in HEADS if name in base), None)
    for key in sorted(reader.read & base.keys()):
        config = {name: value for name, value in base.items() if name != key}
        if heads and key in KV:
            config[heads] = (
                2  # so few that a default which is a number differs from one that follows the heads
            )
        try:
            filled = whole(cls.from_dict(dict(config)), model_type)
        except Exception:  # noqa: BLE001 - the class refuses what is missing, each with an error of its own
            continue
        try:
            theirs, ours = from_hf_config(filled, "m"), from_hf_config(config, "m")
        except SpecError:
            continue
        assert ours.replace(left_out=None) == theirs.replace(left_out=None), key


def whole(config: Any, model_type: str) -> dict[str, Any]:
    """All keys of a config but those that JSON has no number for (an infinite limit)."""
    fields = json.loads(config.to_json_string(use_diff=False))
    fields.pop("time_step_limit", None)
    return {**fields, "model_type": model_type}


def test_what_stands_beside_the_text_is_said_with_its_size() -> None:
    # google/gemma-3-4b-it: 4,300,079,472 parameters in its checkpoint, of which 3,880,263,168 are the text's.
    tower = {
        "hidden_size": 1152,
        "num_hidden_layers": 27,
        "intermediate_size": 4304,
        "patch_size": 14,
        "image_size": 896,
    }
    config = {**GOLDEN["gemma3"]["config"], "vision_config": tower}
    config["text_config"] = {**config["text_config"], "hidden_size": 2560}
    model = from_hf_config(config, "m")
    assert (
        model.left_out
        == "text part only; left out: vision_config (about 0.42e9 parameters, 0.84 GB at 16 bit)"
    )
    assert model.beside_params == pytest.approx(4_300_079_472 - 3_880_263_168, rel=1e-4)
    ahead = from_hf_config({**GOLDEN["deepseek_v3"]["config"], "num_nextn_predict_layers": 1}, "m").left_out
    # DeepSeek-V3's report (arXiv 2412.19437) gives 14B for its module, with copies of the table and the head.
    assert ahead == "left out: 1 multi-token prediction layer (about 11.61e9 parameters, 23.22 GB at 16 bit)"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("hidden_act", "gelu", None),
        ("rope_theta", 1e6, None),
        ("adapter_rank", 64, "not read, whatever it says: adapter_rank"),
        ("adapter_rank", None, None),
        ("num_extra_layers", 3, "not read, whatever it says: num_extra_layers"),
    ],
)
def test_a_key_that_no_row_reads_is_said(key: str, value: Any, said: str | None) -> None:
    assert from_hf_config({**GOLDEN["arcee"]["config"], key: value}, "m").left_out == said


@pytest.mark.parametrize("model_type", sorted(FAMILIES.keys() | WRAPPERS.keys()))
def test_the_default_config_of_a_class_raises_no_alarm(model_type: str) -> None:
    auto = pytest.importorskip("transformers.models.auto.configuration_auto")
    if model_type not in auto.CONFIG_MAPPING:
        pytest.skip("transformers has no class of this type")
    try:
        model = from_hf_config(whole(auto.CONFIG_MAPPING[model_type](), model_type), "m")
    except SpecError:
        pytest.skip("the default config itself is refused")
    assert "not read" not in (model.left_out or "")


def test_a_wrapper_says_what_it_leaves_out() -> None:
    config = {**GOLDEN["llava"]["config"], "vision_config": {"hidden_size": 1024}}
    assert from_hf_config(config, "m").left_out == "text part only; left out: vision_config"
    with pytest.raises(SpecError, match=r"text_config\.model_type = 'unheard_of'"):
        from_hf_config({"model_type": "llava", "text_config": {"model_type": "unheard_of"}}, "m")


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("opt", "layer_norm_elementwise_affine", False),
        ("gpt2", "add_cross_attention", True),
        ("gpt2", "attention_head_type", "multiquery"),
        ("deepseek_v2", "mlp_bias", True),
        ("gemma3_text", "use_bidirectional_attention", True),
        ("mistral", "attention_bias", True),
    ],
)
def test_a_key_that_changes_the_model_and_is_not_counted_is_refused(
    model_type: str, key: str, value: Any
) -> None:
    config = GOLDEN.get(model_type, {}).get("config") or {
        **GOLDEN["deepseek_v3"]["config"],
        "model_type": model_type,
    }
    assert from_hf_config(config, "m")
    with pytest.raises(SpecError, match=f"{key} = .*: expected"):
        from_hf_config({**config, key: value}, "m")


# Parameters beside the text of the classes' default configs (transformers 5.23, meta device).
BESIDE = {
    "gemma3": 94_700_000, "glm4v": 892_500_000, "internvl": 337_500_000, "kimi_k25": 471_100_000, "llama4": 455_200_000,
    "llava": 324_500_000, "llava_onevision": 419_300_000, "mistral3": 439_000_000, "paligemma": 401_900_000,
    "qwen2_5_vl": 3_083_000_000, "qwen2_audio": 642_200_000, "qwen2_vl": 675_800_000, "qwen3_5": 453_700_000,
    "qwen3_omni_moe_thinker": 1_216_800_000, "qwen3_vl": 566_900_000, "smolvlm": 171_300_000, "video_llama_3": 105_600_000,
}  # fmt: skip


@pytest.mark.parametrize("model_type", sorted(BESIDE))
def test_parts_beside_the_text_have_their_size(model_type: str) -> None:
    auto = pytest.importorskip("transformers.models.auto.configuration_auto")
    model = from_hf_config(whole(auto.CONFIG_MAPPING[model_type](), model_type), "m")
    assert model.beside_params == pytest.approx(BESIDE[model_type], rel=0.03)
    counted = model.with_beside()
    assert total_params(counted) - total_params(model) == model.beside_params
    assert str(counted.left_out).startswith("counted in weights and memory, not in times: ")


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize(
    "key", ["hidden_act", "hidden_size", "depth", "patch_size", "mlp_ratio", "spatial_merge_size"]
)
def test_a_wrong_value_of_a_tower_is_no_traceback(key: str, value: Any) -> None:
    """What stands beside the text is sized where it can be: nothing of it refuses the text."""
    tower = {"hidden_size": 64, "depth": 2, "patch_size": 14, "spatial_merge_size": 2, "hidden_act": "silu"}
    config = {**GOLDEN["gemma3"]["config"], "vision_config": {**tower, key: value}}
    assert "vision_config" in str(from_hf_config(config, "m").left_out)


@pytest.mark.parametrize("model_type", sorted(WRAPPERS))
def test_every_wrapper_says_what_it_leaves_out(model_type: str) -> None:
    auto = pytest.importorskip("transformers.models.auto.configuration_auto")
    if model_type not in auto.CONFIG_MAPPING:
        pytest.skip("transformers has no class of this type")
    config = whole(auto.CONFIG_MAPPING[model_type](), model_type)
    try:
        model = from_hf_config(config, "m")
    except SpecError:
        pytest.skip("the default config itself is refused")
    said = str(model.left_out)
    if model_type == "fuyu":  # has no tower: patches are multiplied with one matrix
        return
    assert said.startswith("text part only; left out: ")
    inner = config.get("thinker_config") or config
    sized = any(isinstance(inner.get(part), dict) for part in ("vision_config", "audio_config"))
    assert "GB at 16 bit" in said or not sized or model_type in _UNSIZED


_UNSIZED = {"aya_vision", "fast_vlm", "florence2", "gemma3n", "perception_lm", "unlimited_ocr"}
"""Towers whose configs do not say how wide and deep they are: timm's, and stages of several widths."""
