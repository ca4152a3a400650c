"""Which type llama.cpp gives each tensor of a mixed file such as Q4_K_M (``llama_tensor_get_type`` of llama-quant.cpp)."""

from __future__ import annotations

from llm_perf.config.formats import FORMATS, MatrixFormat
from llm_perf.config.model import LatentAttention, LayerGroup, ModelConfig, MoEMLP
from llm_perf.counts.linears import Linear

_BASE = {
    "q2_k": "q2_k", "q2_k_s": "q2_k", "q3_k_s": "q3_k", "q3_k_m": "q3_k", "q3_k_l": "q3_k", "q4_k_s": "q4_k",
    "q4_k_m": "q4_k", "q5_k_s": "q5_k", "q5_k_m": "q5_k",
}  # fmt: skip
_BLOCK = 256
_NOT_BLOCKS_OF_256 = {
    "q2_k": "iq4_nl", "q3_k": "iq4_nl", "iq4_xs": "iq4_nl", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0",
}  # fmt: skip
"""What a type becomes where rows do not divide into its blocks of 256."""
_MIXED = frozenset({"q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m", "iq4_nl", "iq4_xs"})
_LAYERS_OF_70B = 80


def matrix_format(name: str) -> MatrixFormat:
    """A ggml type as the format of a matrix."""
    if name in ("f32", "f16", "bf16"):
        return MatrixFormat(32.0 if name == "f32" else 16.0, "16-bit", name)
    return MatrixFormat(FORMATS[name].stored_bits, "weight-only", name)


class MixtureRule:
    """The types of one model's tensors in a file of one type; IQ types are made with an importance matrix."""

    def __init__(self, model: ModelConfig, mixture: str) -> None:
        self.model = model
        self.mixture = mixture
        self.base = _BASE.get(mixture, mixture)
        self.layers = model.num_layers

    def _fitted(self, name: str, in_features: int) -> MatrixFormat:
        return matrix_format(_NOT_BLOCKS_OF_256.get(name, name) if in_features % _BLOCK else name)

    def embedding(self) -> MatrixFormat:
        """The token table: of the file's own type, or of the head's where it is the head too."""
        return self.head() if self.model.tied_embeddings else self._fitted(self._ends, self._width)

    def head(self) -> MatrixFormat:
        """The output matrix has 6 bits in every file but those that have more, or are of one type."""
        if self._ends == "q8_0":
            return self._fitted("q8_0", self._width)
        return self._fitted("q8_0" if self._width % _BLOCK else "q6_k", self._width)

    @property
    def _width(self) -> int:
        return self.model.embedding_size or self.model.hidden_size

    @property
    def _ends(self) -> str:
        return "q8_0" if self.base == "mxfp4_gguf" else self.base

    def matrix(self, layer: int, group: LayerGroup, index: int, linear: Linear) -> MatrixFormat:
        """The type of one matrix of layer number ``layer``."""
        if linear.op == "router":
            return matrix_format("f32")
        if self.base == "mxfp4_gguf":
            return matrix_format("mxfp4_gguf" if linear.op.startswith("expert") else "q8_0")
        name = self.base
        if linear.op.endswith("_down") and linear.op != "kv_down":
            name = self._down(layer)
        elif linear.op == "attention_output" and not group.attention.recurrent:
            name = self._attention_output(group)
        elif (
            linear.op == "qkv"
            and index == 2
            and not group.attention.recurrent
            and not isinstance(group.attention, LatentAttention)
        ):
            name = self._value(layer, group)
        elif linear.op == "qkv" and index == 1 and _experts(group) == _EXPERTS_OF_MIXTRAL:
            name = "q8_0"
        return self._fitted(name, linear.in_features)

    def _more(self, layer: int) -> bool:
        """llama.cpp's ``use_more_bits``: the first and last eighth of the layers, and every third between them."""
        first, last = self.layers // 8, 7 * self.layers // 8
        return layer < first or layer >= last or (layer - first) % 3 == 2

    def _value(self, layer: int, group: LayerGroup) -> str:
        shared = group.attention.num_heads // group.attention.num_kv_heads
        name = self.base
        if _experts(group) == _EXPERTS_OF_MIXTRAL:
            return "q8_0"
        match self.mixture:
            case "q2_k":
                name = "q4_k" if shared >= 4 else "q3_k"
            case "q2_k_s" if shared >= 4:
                name = "q4_k"
            case "q3_k_m":
                name = "q5_k" if layer < 2 else "q4_k"
            case "q3_k_l":
                name = "q5_k"
            case "q4_k_m" | "q5_k_m" if self._more(layer):
                name = "q6_k"
            case "q4_k_s" if layer < 4:
                name = "q5_k"
            case "iq4_nl" | "iq4_xs" if shared >= 4:
                name = "q5_k"
        if self.layers == _LAYERS_OF_70B and shared == 8 and name in ("q3_k", "q4_k"):
            return "q5_k"  # "the 8 heads of the 70B share it": llama.cpp gives it the width back
        return name

    def _down(self, layer: int) -> str:
        eighth = layer < self.layers // 8
        match self.mixture:
            case "q2_k":
                return "q3_k"
            case "q2_k_s" if eighth:
                return "q4_k"
            case "q3_k_m":
                return "q5_k" if layer < self.layers // 16 else "q4_k"
            case "q3_k_l":
                return "q5_k"
            case "q4_k_m" | "q5_k_m" if self._more(layer):
                return "q6_k"
            case "q4_k_s" if eighth:
                return "q5_k"
        return self.base

    def _attention_output(self, group: LayerGroup) -> str:
        if _experts(group) == _EXPERTS_OF_MIXTRAL:
            return "q5_k" if self.mixture in _MIXED else self.base
        return {"q2_k": "q3_k", "q3_k_m": "q4_k", "q3_k_l": "q5_k"}.get(self.mixture, self.base)


_EXPERTS_OF_MIXTRAL = 8
"""llama.cpp asks for this number of experts and means Mixtral."""


def _experts(group: LayerGroup) -> int:
    return group.mlp.num_experts if isinstance(group.mlp, MoEMLP) else 0
