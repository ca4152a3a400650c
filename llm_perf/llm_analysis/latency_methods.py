"""Methods of `LLMAnalysis` that give rates and seconds."""

from __future__ import annotations

from llm_perf.config.base import GB
from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO
from llm_perf.llm_analysis import latency
from llm_perf.llm_analysis.checks import flag, positive, positive_int, recomputation
from llm_perf.llm_analysis.latency import LayerTimes, Pass
from llm_perf.llm_analysis.setup import Setup


class LatencyMethods:
    """Rates and forward seconds. "Per layer" is the mean over layers where a model has several kinds.

    ``batch_size`` sequences of ``seq_len`` tokens are one whole pass without a cache, as in a prefill. ``ds_zero``
    and ``activation_recomputation`` are members or their numbers. Every method raises SpecError for an argument that
    is out of range.
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

    def get_latency_fwd_per_layer_attn(
        self,
        batch_size: int,
        seq_len: int,
        is_inference: bool = True,
        activation_recomputation: ActivationRecomputation = ActivationRecomputation.NONE,
    ) -> float:
        """Seconds of one layer's attention: the longer of arithmetic and memory traffic.

        Args:
            batch_size: Sequences.
            seq_len: Tokens per sequence.
            is_inference: Whether buffers are used again.
            activation_recomputation: Has no influence: a forward pass moves the same bytes whatever it keeps.
        """
        step = self._step(batch_size, seq_len)
        recomputation(activation_recomputation, is_inference)
        setup = self._setup
        return float(setup.mean(lambda layer: latency.attention_time(setup, layer, step, is_inference)))

    def get_latency_fwd_per_layer_mlp(
        self,
        batch_size: int,
        seq_len: int,
        is_inference: bool = True,
        activation_recomputation: ActivationRecomputation = ActivationRecomputation.NONE,
    ) -> float:
        """Seconds of one layer's feed-forward block, with the all-to-alls around its experts.

        Args:
            batch_size: Sequences.
            seq_len: Tokens per sequence.
            is_inference: Whether buffers are used again.
            activation_recomputation: Has no influence, as for the attention.
        """
        step = self._step(batch_size, seq_len)
        recomputation(activation_recomputation, is_inference)
        setup = self._setup
        return float(setup.mean(lambda layer: latency.mlp_time(setup, layer, step, is_inference)))

    def get_latency_fwd_per_layer_mlp_moe_alltoall(self, batch_size: int, seq_len: int) -> float:
        """Seconds of one of the two all-to-alls around the experts; 0 where a rank has them all.

        Args:
            batch_size: Sequences.
            seq_len: Tokens per sequence.
        """
        step = self._step(batch_size, seq_len)
        return float(self._setup.mean(lambda layer: latency.all_to_all_time(self._setup, layer, step.tokens)))

    def get_latency_fwd_per_layernorm(self, batch_size: int, seq_len: int, dtype_bytes: float = 4) -> float:
        """Seconds of one norm: its input read once.

        Args:
            batch_size: Sequences.
            seq_len: Tokens per sequence.
            dtype_bytes: Bytes per element.
        """
        step = self._step(batch_size, seq_len)
        return latency.norm_time(self._setup, step, positive("dtype_bytes", dtype_bytes))

    def get_latency_fwd_per_tp_comm(self, batch_size: int, seq_len: int, dtype_bytes: float) -> float:
        """Seconds of one ring all-reduce of the hidden states over the tensor-parallel ranks.

        Args:
            batch_size: Sequences.
            seq_len: Tokens per sequence.
            dtype_bytes: Bytes per element.
        """
        step = self._step(batch_size, seq_len)
        return latency.all_reduce_time(self._setup, step.tokens, positive("dtype_bytes", dtype_bytes))

    def get_latency_fwd_per_layer_shared_dp_comm(self) -> float:
        """Seconds in which ZeRO stage 3 gathers one layer's weights from all replicas."""
        return float(self._setup.mean(lambda layer: latency.weight_gather_time(self._setup, layer)))

    # -- a layer, the ends, the whole pass ------------------------------------------------------------------

    def get_latency_fwd_per_layer(
        self,
        batch_size: int,
        seq_len: int,
        is_inference: bool = True,
        activation_recomputation: ActivationRecomputation = ActivationRecomputation.NONE,
        layernorm_dtype_bytes: float = 4,
        ds_zero: DSZeRO = DSZeRO.NONE,
    ) -> tuple[float, dict[str, float]]:
        """(seconds of one layer, its parts); ZeRO stage 3 gathers weights beside the computation.

        Args:
            batch_size: Sequences.
            seq_len: Tokens per sequence.
            is_inference: Whether buffers are used again.
            activation_recomputation: Has no influence, see the modules.
            layernorm_dtype_bytes: Bytes per element of the norms' inputs.
            ds_zero: ZeRO stage; stages below 3 gather nothing in a forward pass.
        """
        step, setup, stage = self._step(batch_size, seq_len), self._setup, DSZeRO.of(ds_zero)
        recomputation(activation_recomputation, is_inference)
        norm_bytes = positive("layernorm_dtype_bytes", layernorm_dtype_bytes)
        times = [
            latency.layer_times(setup, layer, step, norm_bytes, stage, is_inference) for layer in setup.layers
        ]

        def mean(name: str) -> float:
            return setup.mean_of([getattr(one, name) for one in times])

        return mean("total"), {name: mean(name) for name in LayerTimes.__dataclass_fields__}

    def get_latency_fwd_input_embedding(self, batch_size: int, seq_len: int, dtype_bytes: float = 4) -> float:
        """Seconds of looking up the tokens' rows, and of the all-reduce that joins the vocabulary's shards.

        Args:
            batch_size: Sequences.
            seq_len: Tokens per sequence.
            dtype_bytes: Bytes per element of the table.
        """
        step = self._step(batch_size, seq_len)
        return latency.input_embedding_time(self._setup, step.tokens, positive("dtype_bytes", dtype_bytes))

    def get_latency_fwd_output_embedding_loss(self, batch_size: int, seq_len: int) -> float:
        """Seconds of the logits of all positions: the longer of arithmetic and reading the LM head.

        Args:
            batch_size: Sequences.
            seq_len: Tokens per sequence.
        """
        return latency.output_embedding_time(self._setup, self._step(batch_size, seq_len).tokens)

    def get_latency_fwd(
        self,
        batch_size: int,
        seq_len: int,
        is_inference: bool = True,
        activation_recomputation: ActivationRecomputation = ActivationRecomputation.NONE,
        layernorm_dtype_bytes: float = 4,
        breakdown_prefix: str = "",
        ds_zero: DSZeRO = DSZeRO.NONE,
    ) -> tuple[float, dict[str, float]]:
        """(seconds of one forward pass of one batch through all pipeline stages, its parts).

        Args:
            batch_size: Sequences.
            seq_len: Tokens per sequence.
            is_inference: Whether buffers are used again.
            activation_recomputation: Has no influence, see the modules.
            layernorm_dtype_bytes: Bytes per element of the norms' inputs.
            breakdown_prefix: What the keys of the parts begin with.
            ds_zero: ZeRO stage.
        """
        recomputation(activation_recomputation, is_inference)
        times = latency.pass_times(
            self._setup,
            self._step(batch_size, seq_len),
            positive("layernorm_dtype_bytes", layernorm_dtype_bytes),
            DSZeRO.of(ds_zero),
            flag("is_inference", is_inference),
        )
        return times.total_s, times.breakdown(breakdown_prefix, self._setup.parallelism.pp_size > 1)

    def _step(self, batch_size: int, seq_len: int) -> Pass:
        batch, tokens = positive_int("batch_size", batch_size), positive_int("seq_len", seq_len)
        return latency.whole_pass(self._setup, batch, tokens)
