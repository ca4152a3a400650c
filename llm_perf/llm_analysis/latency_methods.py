"""Methods of `LLMAnalysis` that give rates and seconds."""

from __future__ import annotations

from llm_perf.config.base import GB
from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO
from llm_perf.llm_analysis import latency
from llm_perf.llm_analysis.arguments import checked
from llm_perf.llm_analysis.latency import LayerTimes, Pass
from llm_perf.llm_analysis.setup import Setup


class LatencyMethods:
    """Rates and forward seconds. "Per layer" is the mean over layers where a model has several kinds.

    ``batch_size`` sequences of ``seq_len`` tokens are one whole pass without a cache, as in a prefill. What is
    recomputed has no influence: a forward pass moves the same bytes whatever it keeps. Every method raises SpecError for an
    argument that is out of range.
    """

    _setup: Setup

    # -- rates ----------------------------------------------------------------------------------------------

    def get_TFLOPS_per_gpu(self) -> float:  # noqa: N802 - seed 002's name
        """Reached TFLOP/s of products in the format of the wider operand."""
        peak = self._setup.gpu.peak_tflops[self._setup.compute_dtype]  # type: ignore[index]
        return peak * self._setup.flops_efficiency

    def get_gpu_hbm_bandwidth(self) -> float:
        """Reached device memory bandwidth, GB/s."""
        return self._setup.gpu.hbm_bandwidth_gb_per_s * self._setup.hbm_memory_efficiency

    def get_intra_node_bandwidth(self) -> float:
        """Reached rate to the other GPUs of a node, GB/s."""
        return self._setup.intra_node_bytes_per_s / GB

    def get_inter_node_bandwidth(self) -> float:
        """Reached rate to other nodes, GB/s."""
        return self._setup.inter_node_bytes_per_s / GB

    def get_pivot(self) -> float:
        """Tokens per pass above which reading the weights takes less time than computing with them."""
        bytes_per_flop = self._setup.activation_bytes / 2
        return bytes_per_flop * self._setup.flops_per_s / self._setup.bytes_per_s

    # -- modules of one layer -------------------------------------------------------------------------------

    @checked
    def get_latency_fwd_per_layer_attn(
        self,
        batch_size: int,
        seq_len: int,
        is_inference: bool = True,
        activation_recomputation: ActivationRecomputation = ActivationRecomputation.NONE,  # noqa: ARG002 - checked
    ) -> float:
        """Seconds of one layer's attention: the longer of arithmetic and memory traffic."""
        step = self._step(batch_size, seq_len)
        setup = self._setup
        return float(setup.mean(lambda layer: latency.attention_time(setup, layer, step, is_inference)))

    @checked
    def get_latency_fwd_per_layer_mlp(
        self,
        batch_size: int,
        seq_len: int,
        is_inference: bool = True,
        activation_recomputation: ActivationRecomputation = ActivationRecomputation.NONE,  # noqa: ARG002 - checked
    ) -> float:
        """Seconds of one layer's feed-forward block, with the all-to-alls around its experts."""
        step = self._step(batch_size, seq_len)
        setup = self._setup
        return float(setup.mean(lambda layer: latency.mlp_time(setup, layer, step, is_inference)))

    @checked
    def get_latency_fwd_per_layer_mlp_moe_alltoall(self, batch_size: int, seq_len: int) -> float:
        """Seconds of one of the two all-to-alls around the experts; 0 where a rank has them all."""
        step = self._step(batch_size, seq_len)
        return float(self._setup.mean(lambda layer: latency.all_to_all_time(self._setup, layer, step.tokens)))

    @checked
    def get_latency_fwd_per_layernorm(self, batch_size: int, seq_len: int, dtype_bytes: float = 4) -> float:
        """Seconds of one norm: its input read once."""
        step = self._step(batch_size, seq_len)
        return latency.norm_time(self._setup, step, dtype_bytes)

    @checked
    def get_latency_fwd_per_tp_comm(self, batch_size: int, seq_len: int, dtype_bytes: float) -> float:
        """Seconds of one ring all-reduce of the hidden states over the tensor-parallel ranks."""
        step = self._step(batch_size, seq_len)
        return latency.all_reduce_time(self._setup, step.tokens, dtype_bytes)

    def get_latency_fwd_per_layer_shared_dp_comm(self) -> float:
        """Seconds in which ZeRO stage 3 gathers one layer's weights from all replicas."""
        return float(self._setup.mean(lambda layer: latency.weight_gather_time(self._setup, layer)))

    # -- a layer, the ends, the whole pass ------------------------------------------------------------------

    @checked
    def get_latency_fwd_per_layer(
        self,
        batch_size: int,
        seq_len: int,
        is_inference: bool = True,
        activation_recomputation: ActivationRecomputation = ActivationRecomputation.NONE,  # noqa: ARG002 - checked
        layernorm_dtype_bytes: float = 4,
        ds_zero: DSZeRO = DSZeRO.NONE,
    ) -> tuple[float, dict[str, float]]:
        """(seconds of one layer, its parts); ZeRO stage 3 gathers weights beside the computation."""
        step, setup = self._step(batch_size, seq_len), self._setup
        times = [
            latency.layer_times(setup, layer, step, layernorm_dtype_bytes, ds_zero, is_inference)
            for layer in setup.layers
        ]

        def mean(name: str) -> float:
            return setup.mean_of([getattr(one, name) for one in times])

        return mean("total"), {name: mean(name) for name in LayerTimes.__dataclass_fields__}

    @checked
    def get_latency_fwd_input_embedding(self, batch_size: int, seq_len: int, dtype_bytes: float = 4) -> float:
        """Seconds of looking up the tokens' rows, and of the all-reduce that joins the vocabulary's shards."""
        step = self._step(batch_size, seq_len)
        return latency.input_embedding_time(self._setup, step.tokens, dtype_bytes)

    @checked
    def get_latency_fwd_output_embedding_loss(self, batch_size: int, seq_len: int) -> float:
        """Seconds of the logits of all positions: the longer of arithmetic and reading the LM head."""
        return latency.output_embedding_time(self._setup, self._step(batch_size, seq_len).tokens)

    @checked
    def get_latency_fwd(
        self,
        batch_size: int,
        seq_len: int,
        is_inference: bool = True,
        activation_recomputation: ActivationRecomputation = ActivationRecomputation.NONE,  # noqa: ARG002 - checked
        layernorm_dtype_bytes: float = 4,
        breakdown_prefix: str = "",
        ds_zero: DSZeRO = DSZeRO.NONE,
    ) -> tuple[float, dict[str, float]]:
        """(seconds of one forward pass of one batch through all pipeline stages, its parts)."""
        times = latency.pass_times(
            self._setup,
            self._step(batch_size, seq_len),
            layernorm_dtype_bytes,
            ds_zero,
            is_inference,
        )
        return times.total_s, times.breakdown(breakdown_prefix, self._setup.parallelism.pp_size > 1)

    def _step(self, batch_size: int, seq_len: int) -> Pass:
        return latency.whole_pass(self._setup, batch_size, seq_len)
