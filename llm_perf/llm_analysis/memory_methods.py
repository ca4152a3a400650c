"""Methods of `LLMAnalysis` that count bytes of one GPU."""

from __future__ import annotations

from typing import Any

from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO
from llm_perf.llm_analysis import memory
from llm_perf.llm_analysis.checks import (
    bits,
    flag,
    not_negative,
    positive,
    positive_int,
    recomputation,
)
from llm_perf.llm_analysis.memory import ActivationOptions
from llm_perf.llm_analysis.setup import Setup


class MemoryMethods:
    """Bytes of one GPU.

    "Per layer" is the mean over layers where a model has several kinds, and the largest of them for activations in
    inference, whose buffers are used again.

    ``ds_zero`` is a `DSZeRO` or its number, ``activation_recomputation`` an `ActivationRecomputation` or its number.
    Every method raises SpecError for an argument that is out of range.
    """

    _setup: Setup

    # -- weights and cache ----------------------------------------------------------------------------------

    def get_weight_memory_per_layer(
        self, ds_zero: DSZeRO = DSZeRO.NONE, return_breakdown: bool = False
    ) -> Any:
        """Weights of one layer on one tensor- and expert-parallel rank; ZeRO stage 3 shards them over replicas.

        Args:
            ds_zero: ZeRO stage.
            return_breakdown: Whether to return (total, attention, feed-forward with router, norms).
        """
        setup, stage = self._setup, DSZeRO.of(ds_zero)
        layers = [memory.layer_weight_bytes(setup, layer, stage) for layer in setup.layers]
        parts = tuple(map(setup.mean_of, zip(*layers, strict=True)))
        return parts if flag("return_breakdown", return_breakdown) else parts[0]

    def get_weight_memory_last_layernorm(self, ds_zero: DSZeRO = DSZeRO.NONE) -> float:
        """Weights of the norm after the last layer.

        Args:
            ds_zero: ZeRO stage.
        """
        return memory.last_norm_weight_bytes(self._setup, DSZeRO.of(ds_zero))

    def get_memory_embedding(self, ds_zero: DSZeRO = DSZeRO.NONE) -> float:
        """Token table, positions and an untied LM head; the vocabulary is sharded over tensor-parallel ranks.

        Args:
            ds_zero: ZeRO stage.
        """
        return memory.embedding_weight_bytes(self._setup, DSZeRO.of(ds_zero))

    def get_memory_kv_cache_per_layer(
        self, batch_size: int, seq_len: int, kv_cache_dtype_bytes: float | None = None
    ) -> float:
        """Keys and values of one layer on one tensor-parallel rank, which holds at least one head.

        Args:
            batch_size: Sequences.
            seq_len: Tokens per sequence.
            kv_cache_dtype_bytes: Bytes per element; None for those of the number format.
        """
        batch, context = positive_int("batch_size", batch_size), positive_int("seq_len", seq_len)
        given = (
            None if kv_cache_dtype_bytes is None else positive("kv_cache_dtype_bytes", kv_cache_dtype_bytes)
        )
        element = memory.kv_bytes_per_element(self._setup, given)
        return float(self._setup.mean(lambda layer: memory.layer_kv_bytes(layer, batch, context, element)))

    # -- activations ----------------------------------------------------------------------------------------

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

        Args:
            batch_size: Sequences of one micro-batch.
            seq_len: Tokens per sequence.
            is_inference: Whether buffers are used again; nothing is recomputed then.
            flash_attn: Whether a fused kernel keeps softmax statistics in place of scores.
            softmax_dropout: Whether scores have a dropout mask.
            attn_dropout: Whether the block's output has a dropout mask.
            activation_recomputation: What is not kept.
        """
        batch, tokens = positive_int("batch_size", batch_size), positive_int("seq_len", seq_len)
        options = ActivationOptions(
            recompute=recomputation(activation_recomputation, is_inference),
            flash_attn=flag("flash_attn", flash_attn),
            softmax_dropout=flag("softmax_dropout", softmax_dropout),
            attn_dropout=flag("attn_dropout", attn_dropout),
        )
        setup = self._setup
        layers = [
            memory.attention_activation_bytes(setup, layer, batch, tokens, is_inference, options)
            for layer in setup.layers
        ]
        return max(layers) if is_inference else setup.mean_of(layers)

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
        """Activations of one layer's feed-forward block; inference and training as for the attention.

        Args:
            batch_size: Sequences of one micro-batch.
            seq_len: Tokens per sequence.
            is_inference: Whether buffers are used again; nothing is recomputed then.
            activation_recomputation: What is not kept.
            mlp_activation_quant_bits: Bits of all kept inputs; goes before the three that follow.
            mlp_1linear_quant_bits: Bits of the first product's input.
            mlp_gelu_input_quant_bits: Bits of the activation function's input.
            mlp_2linear_quant_bits: Bits of the second product's input.
            recompute_gelu: Whether the activation function is computed again in the backward pass.
            gated_linear_units: Whether the block is taken as gated, so that a third inner tensor is kept.
            with_dropout: Whether the block's output has a dropout mask.
        """
        batch, tokens = positive_int("batch_size", batch_size), positive_int("seq_len", seq_len)
        options = ActivationOptions(
            recompute=recomputation(activation_recomputation, is_inference),
            mlp_activation_quant_bits=bits("mlp_activation_quant_bits", mlp_activation_quant_bits),
            mlp_1linear_quant_bits=bits("mlp_1linear_quant_bits", mlp_1linear_quant_bits),
            mlp_gelu_input_quant_bits=bits("mlp_gelu_input_quant_bits", mlp_gelu_input_quant_bits),
            mlp_2linear_quant_bits=bits("mlp_2linear_quant_bits", mlp_2linear_quant_bits),
            mlp_recompute_gelu=flag("recompute_gelu", recompute_gelu),
            mlp_dropout=flag("with_dropout", with_dropout),
        )
        setup, gated = self._setup, flag("gated_linear_units", gated_linear_units)
        layers = [
            memory.mlp_activation_bytes(setup, layer, batch, tokens, is_inference, options, gated)
            for layer in setup.layers
        ]
        return max(layers) if is_inference else setup.mean_of(layers)

    def get_activation_memory_per_layernorm(
        self, batch_size: int, seq_len: int, dtype_bytes: float = 4
    ) -> float:
        """Input of one norm, spread over the ranks of sequence parallelism.

        Args:
            batch_size: Sequences.
            seq_len: Tokens per sequence.
            dtype_bytes: Bytes per element.
        """
        batch, tokens = positive_int("batch_size", batch_size), positive_int("seq_len", seq_len)
        return memory.norm_activation_bytes(self._setup, batch, tokens, positive("dtype_bytes", dtype_bytes))

    def get_activation_memory_output_embedding(self, batch_size: int, seq_len: int) -> float:
        """Logits of all positions on one tensor-parallel rank.

        Args:
            batch_size: Sequences.
            seq_len: Tokens per sequence.
        """
        batch, tokens = positive_int("batch_size", batch_size), positive_int("seq_len", seq_len)
        return memory.logits_bytes(self._setup, batch, tokens)

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
        """Activations of one layer: in training the sum of its modules, in inference the largest of them.

        Args:
            batch_size: Sequences of one micro-batch.
            seq_len: Tokens per sequence.
            is_inference: Whether buffers are used again; nothing is recomputed then.
            activation_recomputation: What is not kept; with FULL only the layer's input is.
            layernorm_dtype_bytes: Bytes per element of the norms' inputs.
            flash_attn: Whether a fused kernel keeps softmax statistics in place of scores.
            softmax_dropout: Whether scores have a dropout mask.
            mlp_activation_quant_bits: Bits of all kept inputs of the feed-forward block.
            mlp_1linear_quant_bits: Bits of the first product's input.
            mlp_gelu_input_quant_bits: Bits of the activation function's input.
            mlp_2linear_quant_bits: Bits of the second product's input.
            mlp_recompute_gelu: Whether the activation function is computed again in the backward pass.
            return_breakdown: Whether to return (total, attention, feed-forward, norms).
        """
        batch, tokens = positive_int("batch_size", batch_size), positive_int("seq_len", seq_len)
        options = ActivationOptions(
            recompute=recomputation(activation_recomputation, is_inference),
            layernorm_dtype_bytes=positive("layernorm_dtype_bytes", layernorm_dtype_bytes),
            flash_attn=flag("flash_attn", flash_attn),
            softmax_dropout=flag("softmax_dropout", softmax_dropout),
            mlp_activation_quant_bits=bits("mlp_activation_quant_bits", mlp_activation_quant_bits),
            mlp_1linear_quant_bits=bits("mlp_1linear_quant_bits", mlp_1linear_quant_bits),
            mlp_gelu_input_quant_bits=bits("mlp_gelu_input_quant_bits", mlp_gelu_input_quant_bits),
            mlp_2linear_quant_bits=bits("mlp_2linear_quant_bits", mlp_2linear_quant_bits),
            mlp_recompute_gelu=flag("mlp_recompute_gelu", mlp_recompute_gelu),
        )
        setup = self._setup
        layers = [
            memory.layer_activation_bytes(setup, layer, batch, tokens, is_inference, options)
            for layer in setup.layers
        ]
        parts = tuple(map(max if is_inference else setup.mean_of, zip(*layers, strict=True)))
        return parts if flag("return_breakdown", return_breakdown) else parts[0]

    # -- training -------------------------------------------------------------------------------------------

    def get_memory_optimizer_state_and_gradient_per_layer(
        self,
        master_weights_dtype_bytes: float = 4,
        other_op_bytes: float | None = None,
        ds_zero: DSZeRO = DSZeRO.NONE,
    ) -> tuple[float, float]:
        """(optimizer state, gradients) of one layer: ZeRO shards the former from stage 1 on, the latter from 2.

        Args:
            master_weights_dtype_bytes: Bytes of a master weight and of a gradient.
            other_op_bytes: What else the optimizer keeps per parameter; None for Adam's two moments, 8 bytes.
            ds_zero: ZeRO stage.
        """
        arguments = _training_arguments(master_weights_dtype_bytes, other_op_bytes, ds_zero)
        setup = self._setup
        layers = [memory.layer_training_bytes(setup, layer, *arguments) for layer in setup.layers]
        state, gradients = map(setup.mean_of, zip(*layers, strict=True))
        return state, gradients

    def get_memory_optimizer_state_and_gradient_embedding(
        self,
        master_weights_dtype_bytes: float = 4,
        other_op_bytes: float | None = None,
        ds_zero: DSZeRO = DSZeRO.NONE,
    ) -> tuple[float, float]:
        """(optimizer state, gradients) of the embedding and of an untied LM head.

        Args:
            master_weights_dtype_bytes: Bytes of a master weight and of a gradient.
            other_op_bytes: What else the optimizer keeps per parameter; None for Adam's two moments, 8 bytes.
            ds_zero: ZeRO stage.
        """
        params = self._setup.embedding_rank_params + self._setup.head_rank_params
        arguments = _training_arguments(master_weights_dtype_bytes, other_op_bytes, ds_zero)
        return tuple(memory.training_bytes(self._setup, params, *arguments))  # type: ignore[return-value]

    def get_memory_optimizer_state_and_gradient_last_layernorm(
        self,
        master_weights_dtype_bytes: float = 4,
        other_op_bytes: float | None = None,
        ds_zero: DSZeRO = DSZeRO.NONE,
    ) -> tuple[float, float]:
        """(optimizer state, gradients) of the norm after the last layer.

        Args:
            master_weights_dtype_bytes: Bytes of a master weight and of a gradient.
            other_op_bytes: What else the optimizer keeps per parameter; None for Adam's two moments, 8 bytes.
            ds_zero: ZeRO stage.
        """
        params = self._setup.last_norm_params / self._setup.parallelism.tp_size
        arguments = _training_arguments(master_weights_dtype_bytes, other_op_bytes, ds_zero)
        return tuple(memory.training_bytes(self._setup, params, *arguments))  # type: ignore[return-value]


def _training_arguments(
    master: float, other: float | None, stage: DSZeRO
) -> tuple[DSZeRO, float, float | None]:
    """In the order of `memory.training_bytes`."""
    return (
        DSZeRO.of(stage),
        positive("master_weights_dtype_bytes", master),
        None if other is None else not_negative("other_op_bytes", other),
    )
