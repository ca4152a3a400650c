"""Multimodal models of which the text part is counted: by the row of that part, the outer class's flag ties its head.

What stands beside the text (vision and audio towers, projectors, talkers) is left out, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wrapper:
    """The text part's ``model_type`` where ``text_config`` has none, and what ties the head where nothing is said.

    ``tied`` None is the default of the text part's own class.
    """

    text: str
    tied: bool | None = None


WRAPPERS: Mapping[str, Wrapper] = {
    "audioflamingo3": Wrapper("qwen2"),
    "cohere2_vision": Wrapper("cohere2", tied=True),
    "cosmos3_omni": Wrapper("qwen3_vl_text", tied=False),
    "deepseek_vl": Wrapper("llama", tied=True),
    "deepseek_vl_hybrid": Wrapper("llama", tied=True),
    "exaone4_5": Wrapper("exaone4", tied=False),
    "fun_asr_nano": Wrapper("qwen3", tied=True),
    "gemma3": Wrapper("gemma3_text", tied=True),
    "glmasr": Wrapper("llama", tied=True),
    "got_ocr2": Wrapper("qwen2", tied=True),
    "idefics2": Wrapper("mistral", tied=False),
    "idefics3": Wrapper("llama", tied=False),
    "internvl": Wrapper("qwen2", tied=True),
    "janus": Wrapper("llama", tied=True),
    "kimi_k25": Wrapper("deepseek_v3", tied=True),
    "lighton_ocr": Wrapper("qwen3", tied=True),
    "llama4": Wrapper("llama4_text", tied=False),
    "llava": Wrapper("llama", tied=False),
    "llava_next": Wrapper("llama", tied=False),
    "llava_next_video": Wrapper("llama", tied=False),
    "llava_onevision": Wrapper("qwen2", tied=False),
    "minicpm_ocr": Wrapper("qwen3_5_text", tied=True),
    "minicpmv4_6": Wrapper("qwen3_5_text", tied=False),
    "minicpmv4_7": Wrapper("qwen3_5_text", tied=False),
    "mistral3": Wrapper("mistral", tied=True),
    "moss_transcribe_diarize": Wrapper("qwen3", tied=True),
    "musicflamingo": Wrapper("qwen2"),
    "ovis2": Wrapper("qwen2", tied=True),
    "pp_chart2table": Wrapper("qwen2", tied=True),
    "qianfan_ocr": Wrapper("qwen3", tied=False),
    "qwen2_5_vl": Wrapper("qwen2_5_vl_text", tied=False),
    "qwen2_audio": Wrapper("qwen2"),
    "qwen2_vl": Wrapper("qwen2_vl_text", tied=False),
    "qwen3_5": Wrapper("qwen3_5_text", tied=False),
    "qwen3_5_moe": Wrapper("qwen3_5_moe_text", tied=False),
    "qwen3_asr": Wrapper("qwen3", tied=True),
    "qwen3_vl": Wrapper("qwen3_vl_text", tied=False),
    "qwen3_vl_moe": Wrapper("qwen3_vl_moe_text", tied=False),
    "shieldgemma2": Wrapper("gemma3_text", tied=True),
    "smolvlm": Wrapper("llama", tied=False),
    "video_llama_3": Wrapper("qwen2", tied=False),
    "vipllava": Wrapper("llama", tied=False),
    "voxtral": Wrapper("llama"),
}
"""By model_type; each was compared with the text part that transformers 5.23 builds."""
