"""Methods of `LLMAnalysis` that count bytes of one GPU."""

from __future__ import annotations

from typing import Any

from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO
from llm_perf.llm_analysis import memory
from llm_perf.llm_analysis.arguments import checked
from llm_perf.llm_analysis.memory import ActivationOptions
from llm_perf.llm_analysis.setup import Setup


class MemoryMethods:
    """Bytes of one GPU.

    "Per layer" is the mean over layers where a model has several kinds, and the largest of them for activations in
    inference, whose buffers are used again.

    Every method raises SpecError for an argument that is out of range.
    """

    _setup: Setup

    # -- weights and cache ----------------------------------------------------------------------------------

    @checked
    def get_weight_memory_per_layer(
        self, ds_zero: DSZeRO = DSZeRO.NONE, return_breakdown: bool = False
    ) -> Any:
        """Weights of one layer on one tensor- and expert-parallel rank; ZeRO stage 3 shards them over replicas."""
        setup = self._setup
        layers = [memory.layer_weight_bytes(setup, layer, ds_zero) for layer in setup.layers]
        parts = tuple(map(setup.mean_of, zip(*layers, strict=True)))
        return parts if return_breakdown else parts[0]

    @checked
    def get_weight_memory_last_layernorm(self, ds_zero: DSZeRO = DSZeRO.NONE) -> float:
        """Weights of the norm after the last layer."""
        return memory.last_norm_weight_bytes(self._setup, ds_zero)

    @checked
    def get_memory_embedding(self, ds_zero: DSZeRO = DSZeRO.NONE) -> float:
        """Token table, positions and an untied LM head; the vocabulary is sharded over tensor-parallel ranks."""
        return memory.embedding_weight_bytes(self._setup, ds_zero)

    @checked
    def get_memory_kv_cache_per_layer(
        self, batch_size: int, seq_len: int, kv_cache_dtype_bytes: float | None = None
    ) -> float:
        """Keys and values of one layer on one tensor-parallel rank, which holds at least one head."""
        element = memory.kv_bytes_per_element(self._setup, kv_cache_dtype_bytes)
        return float(
            self._setup.mean(lambda layer: memory.layer_kv_bytes(layer, batch_size, seq_len, element))
        )

    # -- activations ----------------------------------------------------------------------------------------

    @checked
    def get_activation_memory_per_layer_attn(
        self,
        batch_size: int,
        seq_len: int,
        is_inference: bool = True,
        flash_attn: bool = True,
        softmax_dropout: bool = False,
        attn_dropout: bool = True,
        activation_recomputation: ActivationRecomputation = ActivationRecomputation.NONE,
    ) -> float:
        """Activations of one layer's attention.

        In inference the widest buffers at one time; in training all that the backward pass needs
        (Korthikanti et al., arXiv 2205.05198, section 4).
        """
        options = ActivationOptions(
            recompute=activation_recomputation,
            flash_attn=flash_attn,
            softmax_dropout=softmax_dropout,
            attn_dropout=attn_dropout,
        )
        setup = self._setup
        layers = [
            memory.attention_activation_bytes(setup, layer, batch_size, seq_len, is_inference, options)
            for layer in setup.layers
        ]
        return max(layers) if is_inference else setup.mean_of(layers)

    @checked
    def get_activation_memory_per_layer_mlp(
        self,
        batch_size: int,
        seq_len: int,
        is_inference: bool = True,
        activation_recomputation: ActivationRecomputation = ActivationRecomputation.NONE,
        mlp_activation_quant_bits: int | None = None,
        mlp_1linear_quant_bits: int | None = None,
        mlp_gelu_input_quant_bits: int | None = None,
        mlp_2linear_quant_bits: int | None = None,
        recompute_gelu: bool = False,
        gated_linear_units: bool = False,
        with_dropout: bool = False,
    ) -> float:
        """Activations of one layer's feed-forward block; inference and training as for the attention."""
        options = ActivationOptions(
            recompute=activation_recomputation,
            mlp_activation_quant_bits=mlp_activation_quant_bits,
            mlp_1linear_quant_bits=mlp_1linear_quant_bits,
            mlp_gelu_input_quant_bits=mlp_gelu_input_quant_bits,
            mlp_2linear_quant_bits=mlp_2linear_quant_bits,
            mlp_recompute_gelu=recompute_gelu,
            mlp_dropout=with_dropout,
        )
        setup = self._setup
        layers = [
            memory.mlp_activation_bytes(
                setup, layer, batch_size, seq_len, is_inference, options, gated_linear_units
            )
            for layer in setup.layers
        ]
        return max(layers) if is_inference else setup.mean_of(layers)

    @checked
    def get_activation_memory_per_layernorm(
        self, batch_size: int, seq_len: int, dtype_bytes: float = 4
    ) -> float:
        """Input of one norm, spread over the ranks of sequence parallelism."""
        return memory.norm_activation_bytes(self._setup, batch_size, seq_len, dtype_bytes)

    @checked
    def get_activation_memory_output_embedding(self, batch_size: int, seq_len: int) -> float:
        """Logits of all positions on one tensor-parallel rank."""
        return memory.logits_bytes(self._setup, batch_size, seq_len)

    @checked
    def get_activation_memory_per_layer(
        self,
        batch_size: int,
        seq_len: int,
        is_inference: bool = True,
        activation_recomputation: ActivationRecomputation = ActivationRecomputation.NONE,
        layernorm_dtype_bytes: float = 4,
        flash_attn: bool = True,
        softmax_dropout: bool = False,
        mlp_activation_quant_bits: int | None = None,
        mlp_1linear_quant_bits: int | None = None,
        mlp_gelu_input_quant_bits: int | None = None,
        mlp_2linear_quant_bits: int | None = None,
        mlp_recompute_gelu: bool = False,
        return_breakdown: bool = False,
    ) -> Any:
        """Activations of one layer: in training the sum of its modules, in inference the largest of them."""
        options = ActivationOptions(
            recompute=activation_recomputation,
            layernorm_dtype_bytes=layernorm_dtype_bytes,
            flash_attn=flash_attn,
            softmax_dropout=softmax_dropout,
            mlp_activation_quant_bits=mlp_activation_quant_bits,
            mlp_1linear_quant_bits=mlp_1linear_quant_bits,
            mlp_gelu_input_quant_bits=mlp_gelu_input_quant_bits,
            mlp_2linear_quant_bits=mlp_2linear_quant_bits,
            mlp_recompute_gelu=mlp_recompute_gelu,
        )
        setup = self._setup
        layers = [
            memory.layer_activation_bytes(setup, layer, batch_size, seq_len, is_inference, options)
            for layer in setup.layers
        ]
        parts = tuple(map(max if is_inference else setup.mean_of, zip(*layers, strict=True)))
        return parts if return_breakdown else parts[0]

    # -- training -------------------------------------------------------------------------------------------

    @checked
    def get_memory_optimizer_state_and_gradient_per_layer(
        self,
        master_weights_dtype_bytes: float = 4,
        other_op_bytes: float | None = None,
        ds_zero: DSZeRO = DSZeRO.NONE,
    ) -> tuple[float, float]:
        """(optimizer state, gradients) of one layer: ZeRO shards the former from stage 1 on, the latter from 2."""
        arguments = (ds_zero, master_weights_dtype_bytes, other_op_bytes)
        setup = self._setup
        layers = [memory.layer_training_bytes(setup, layer, *arguments) for layer in setup.layers]
        state, gradients = map(setup.mean_of, zip(*layers, strict=True))
        return state, gradients

    @checked
    def get_memory_optimizer_state_and_gradient_embedding(
        self,
        master_weights_dtype_bytes: float = 4,
        other_op_bytes: float | None = None,
        ds_zero: DSZeRO = DSZeRO.NONE,
    ) -> tuple[float, float]:
        """(optimizer state, gradients) of the embedding and of an untied LM head."""
        params = self._setup.embedding_rank_params + self._setup.head_rank_params
        arguments = (ds_zero, master_weights_dtype_bytes, other_op_bytes)
        return tuple(memory.training_bytes(self._setup, params, *arguments))  # type: ignore[return-value]

    @checked
    def get_memory_optimizer_state_and_gradient_last_layernorm(
        self,
        master_weights_dtype_bytes: float = 4,
        other_op_bytes: float | None = None,
        ds_zero: DSZeRO = DSZeRO.NONE,
    ) -> tuple[float, float]:
        """(optimizer state, gradients) of the norm after the last layer."""
        params = self._setup.last_norm_params / self._setup.parallelism.tp_size
        arguments = (ds_zero, master_weights_dtype_bytes, other_op_bytes)
        return tuple(memory.training_bytes(self._setup, params, *arguments))  # type: ignore[return-value]
