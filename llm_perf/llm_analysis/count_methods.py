"""Methods of `LLMAnalysis` that count parameters and FLOPs."""

from __future__ import annotations

from llm_perf.llm_analysis.arguments import checked
from llm_perf.llm_analysis.latency import (
    attention_core_flops,
    attention_flops,
    forward_flops,
    mlp_flops,
    whole_pass,
)
from llm_perf.llm_analysis.parameters import embedding_elements, parameter_totals
from llm_perf.llm_analysis.setup import Setup


class CountMethods:
    """Parameters and FLOPs of the model; neither depends on parallelism.

    "Per layer" is the mean over layers where a model has several kinds. ``batch_size`` sequences of ``seq_len``
    tokens are counted as whole passes, without a cache, with logits of every token.
    """

    _setup: Setup

    # -- parameters -----------------------------------------------------------------------------------------

    @checked
    def get_num_params_embedding(self, shared_embedding: bool = True) -> int:
        """Elements of token table, positions and LM head."""
        return embedding_elements(self._setup, shared_embedding)

    def get_num_params_per_layer_attn(self) -> float:
        """Elements of one layer's query, key, value and output projections."""
        return self._setup.mean(lambda layer: layer.params.attention)

    def get_num_params_per_layer_mlp(self) -> float:
        """Elements of one layer's feed-forward matrices: two, three if gated, times all experts."""
        return self._setup.mean(lambda layer: layer.params.mlp)

    def get_num_params_per_layer_router(self) -> float:
        """Elements that choose experts in one layer; 0 for a dense model."""
        return self._setup.mean(lambda layer: layer.params.router)

    def get_num_params_per_layer_layernorm(self) -> float:
        """Elements of all norms of one layer."""
        return self._setup.mean(lambda layer: layer.params.norms)

    def get_num_params_last_layernorm(self) -> int:
        """Elements of the norm after the last layer."""
        return self._setup.last_norm_params

    def get_num_params_per_layer(self) -> float:
        """Elements of one layer."""
        return self._setup.mean(lambda layer: layer.params.total)

    def get_num_active_params_per_layer(self) -> float:
        """Elements of one layer that one token uses: of the experts, the ``top_k`` it is sent to."""
        return self._setup.mean(lambda layer: layer.active_params.total)

    def get_num_params_total(self) -> float:
        """Elements of the whole model, each stored weight once."""
        return parameter_totals(self._setup).total

    def get_num_active_params_total(self) -> float:
        """Elements of the whole model that one token uses."""
        return parameter_totals(self._setup).active

    # -- FLOPs ----------------------------------------------------------------------------------------------

    @checked
    def get_num_flops_fwd_per_layer_attn(self, batch_size: int, seq_len: int) -> float:
        """FLOPs of one layer's attention in a forward pass: projections, scores and weighted sums.

        Every query is multiplied with every key (4 b s^2 h for multi-head attention): the mask saves nothing.
        """
        step = whole_pass(self._setup, batch_size, seq_len)
        return float(self._setup.mean(lambda layer: attention_flops(layer, step)))

    @checked
    def get_num_flops_fwd_per_layer_mlp(self, batch_size: int, seq_len: int) -> float:
        """FLOPs of one layer's feed-forward block in a forward pass: matrices that a token uses, and router."""
        step = whole_pass(self._setup, batch_size, seq_len)
        return float(self._setup.mean(lambda layer: mlp_flops(layer, step)))

    @checked
    def get_num_flops_fwd_per_layer(self, batch_size: int, seq_len: int) -> float:
        """FLOPs of one layer in a forward pass."""
        attention = self.get_num_flops_fwd_per_layer_attn(batch_size, seq_len)
        return attention + self.get_num_flops_fwd_per_layer_mlp(batch_size, seq_len)

    @checked
    def get_num_flops_fwd_total(self, batch_size: int, seq_len: int) -> float:
        """FLOPs of the whole model in a forward pass (Narayanan et al., arXiv 2104.04473, appendix)."""
        return forward_flops(self._setup, whole_pass(self._setup, batch_size, seq_len))

    @checked
    def get_num_flops_bwd_total(self, batch_size: int, seq_len: int) -> float:
        """FLOPs of the backward pass: twice those of the forward pass, for inputs and for weights."""
        return 2 * self.get_num_flops_fwd_total(batch_size, seq_len)

    @checked
    def get_num_flops_total_attn_compute(self, batch_size: int, seq_len: int) -> float:
        """FLOPs of all layers' scores and weighted sums: what selective recomputation does again.

        Source: Korthikanti et al., arXiv 2205.05198, section 5.
        """
        step = whole_pass(self._setup, batch_size, seq_len)
        return float(self._setup.total(lambda layer: attention_core_flops(layer, step)))
