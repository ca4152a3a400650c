"""Multimodal models of which the text part is counted: by the row of that part, the outer class's flag ties its head.

What stands beside the text (vision and audio towers, projectors, talkers) is left out, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Wrapper:
    """The text part's ``model_type`` where ``text_config`` has none, and what ties the head where nothing is said.

    ``tied`` None is the default of the text part's own class. ``path`` leads to the text part; ``given`` are fields that
    belong to it and that its config does not have. ``ties_inside``: the text part's own flag counts.
    """

    text: str
    tied: bool | None = None
    path: tuple[str, ...] = ("text_config",)
    ties_inside: bool = False
    given: Mapping[str, Any] = field(default_factory=dict)


WRAPPERS: Mapping[str, Wrapper] = {
    "internvl_chat": Wrapper("internlm2", path=("llm_config",), ties_inside=True),
    "kimi_vl": Wrapper("deepseek_v3", tied=False),
    "deepseek_vl_v2": Wrapper("deepseek_v2", path=("language_config",), ties_inside=True),
    "aria": Wrapper("aria_text", tied=False),
    "audioflamingo3": Wrapper("qwen2"),
    "aya_vision": Wrapper("cohere2", tied=True),
    "blip": Wrapper("blip_text_model", tied=True),
    "cohere2_vision": Wrapper("cohere2", tied=True),
    "cosmos3_edge": Wrapper("cosmos3_edge_text", tied=False),
    "cosmos3_omni": Wrapper("qwen3_vl_text", tied=False),
    "deepseek_vl": Wrapper("llama", tied=True),
    "deepseek_vl_hybrid": Wrapper("llama", tied=True),
    "exaone4_5": Wrapper("exaone4", tied=False),
    "fast_vlm": Wrapper("qwen2", tied=False),
    "florence2": Wrapper("bart", tied=True, given={"architectures": ["BartForConditionalGeneration"]}),
    "fun_asr_nano": Wrapper("qwen3", tied=True),
    "fuyu": Wrapper("persimmon", tied=False),
    "gemma3": Wrapper("gemma3_text", tied=True),
    "gemma3n": Wrapper("gemma3n_text", tied=True),
    "gemma4": Wrapper("gemma4_text", tied=True),
    "gemma4_unified": Wrapper("gemma4_unified_text", tied=True),
    "glm46v": Wrapper("glm4v_text", tied=False),
    "glm4v": Wrapper("glm4v_text", tied=False),
    "glm4v_moe": Wrapper("glm4v_moe_text", tied=False),
    "glm5_next": Wrapper("glm5_next_text", tied=False),
    "glm_ocr": Wrapper("glm_ocr_text", tied=False),
    "glmasr": Wrapper("llama", tied=True),
    "glmga": Wrapper("glm4v_text", tied=False),
    "got_ocr2": Wrapper("qwen2", tied=True),
    "granite_docling": Wrapper("granite_docling_text", tied=True),
    "hyperclovax_vision_v2": Wrapper("hyperclovax", tied=True),
    "idefics2": Wrapper("mistral", tied=False),
    "idefics3": Wrapper("llama", tied=False),
    "internvl": Wrapper("qwen2", tied=True),
    "janus": Wrapper("llama", tied=True),
    "kimi_k25": Wrapper("deepseek_v3", tied=True),
    "kimi_k3": Wrapper("kimi_linear", tied=False),
    "kosmos-2": Wrapper("kosmos_2_text_model", tied=True),
    "kosmos-2.5": Wrapper("kosmos_2_5_text_model", tied=True),
    "lfm2_vl": Wrapper("lfm2", tied=True),
    "lfm3_vl": Wrapper("lfm3", tied=True),
    "lighton_ocr": Wrapper("qwen3", tied=True),
    "llama4": Wrapper("llama4_text", tied=False),
    "llava": Wrapper("llama", tied=False),
    "llava_next": Wrapper("llama", tied=False),
    "llava_next_video": Wrapper("llama", tied=False),
    "llava_onevision": Wrapper("qwen2", tied=False),
    "minicpm_ocr": Wrapper("qwen3_5_text", tied=True),
    "minicpmv4_6": Wrapper("qwen3_5_text", tied=False),
    "minicpmv4_7": Wrapper("qwen3_5_text", tied=False),
    "minimax_m3_vl": Wrapper("minimax_m3_vl_text", tied=False),
    "mistral3": Wrapper("mistral", tied=True),
    "mllama": Wrapper("mllama_text_model", tied=False),
    "modernvbert": Wrapper("modernbert", tied=False),
    "molmo2": Wrapper("molmo2_text", tied=False),
    "moss_transcribe_diarize": Wrapper("qwen3", tied=True),
    "muse_glimmer": Wrapper("muse_glimmer_text"),
    "musicflamingo": Wrapper("qwen2"),
    "nemotron_h_omni": Wrapper("nemotron_h", tied=False),
    "ovis2": Wrapper("qwen2", tied=True),
    "paddleocr_vl": Wrapper("paddleocr_vl_text", tied=True),
    "paligemma": Wrapper("gemma", tied=True),
    "perception_lm": Wrapper("llama", tied=False),
    "pp_chart2table": Wrapper("qwen2", tied=True),
    "qianfan_ocr": Wrapper("qwen3", tied=False),
    "qwen2_5_omni": Wrapper("qwen2_5_omni_text", tied=False, path=("thinker_config", "text_config")),
    "qwen2_5_omni_thinker": Wrapper("qwen2_5_omni_text", tied=False),
    "qwen2_5_vl": Wrapper("qwen2_5_vl_text", tied=False),
    "qwen2_audio": Wrapper("qwen2"),
    "qwen2_vl": Wrapper("qwen2_vl_text", tied=False),
    "qwen3_5": Wrapper("qwen3_5_text", tied=False),
    "qwen3_5_moe": Wrapper("qwen3_5_moe_text", tied=False),
    "qwen3_asr": Wrapper("qwen3", tied=True),
    "qwen3_omni_moe": Wrapper("qwen3_omni_moe_text", tied=False, path=("thinker_config", "text_config")),
    "qwen3_omni_moe_thinker": Wrapper("qwen3_omni_moe_text", tied=False),
    "qwen3_vl": Wrapper("qwen3_vl_text", tied=False),
    "qwen3_vl_moe": Wrapper("qwen3_vl_moe_text", tied=False),
    "qwen4_exp": Wrapper("qwen4_exp_text", tied=False),
    "shieldgemma2": Wrapper("gemma3_text", tied=True),
    "smolvlm": Wrapper("llama", tied=False),
    "step3_vl": Wrapper("step3_text", tied=False),
    "step3p7": Wrapper("step3p5"),
    "ultravbert": Wrapper("ultrabert", tied=False),
    "unlimited_ocr": Wrapper("unlimited_ocr_text", tied=False),
    "video_llama_3": Wrapper("qwen2", tied=False),
    "vipllava": Wrapper("llama", tied=False),
    "voxtral": Wrapper("llama"),
    "voxtral_realtime": Wrapper("voxtral_realtime_text", tied=True),
}
"""By model_type; each was compared with the text part that transformers 5.23 builds."""
