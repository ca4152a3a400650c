"""The summary of a training: does it fit, how long does a step take, and how long all of them."""

from __future__ import annotations

from typing import Any

from llm_perf.llm_analysis import latency
from llm_perf.llm_analysis.parameters import parameter_totals
from llm_perf.llm_analysis.setup import Setup
from llm_perf.llm_analysis.training_memory import (
    Activations,
    ModelStates,
    activations,
    check_fit,
    max_batch,
    model_states,
    shortfall,
)
from llm_perf.llm_analysis.training_request import Training, TrainingRequest
from llm_perf.llm_analysis.training_time import StepTimes, recompute_flops, step_times


def training_summary(setup: Setup, request: TrainingRequest) -> dict[str, Any]:
    """The summary under llm-analysis' keys. What needs a number of tokens is None without one.

    Raises:
        SpecError: the batch sizes do not go together, or the tokens are too few for one step.
        DoesNotFitError: the GPU's memory is too small; the message says by how much, and which batch would fit.
    """
    states = model_states(setup, request)
    training = _completed(setup, request, states)
    largest = max_batch(setup, request, states, training.accumulation)
    kept = activations(setup, request, training.batch, training.accumulation)
    check_fit(setup, training, states, kept, largest)
    iterations = training.iterations
    times = step_times(setup, training)
    return {
        **_inputs(setup, training, largest),
        **_memory(setup, training, states, kept),
        **_latencies(setup, training, times, iterations),
    }


def _completed(setup: Setup, request: TrainingRequest, states: ModelStates) -> Training:
    """All batch sizes. Where only the global one is given, the batch is chosen for a full pipeline."""
    parallelism = setup.parallelism
    accumulation = request.known_accumulation(parallelism.dp_size) or parallelism.pp_size
    largest = max_batch(setup, request, states, accumulation)
    if largest == 0 and request.batch is None:
        one = activations(setup, request, 1, accumulation)
        raise shortfall(setup, states, one, 1, 0)
    return request.completed(largest, parallelism.dp_size)


def _inputs(setup: Setup, training: Training, largest: int) -> dict[str, Any]:
    parallelism, request, totals = setup.parallelism, training.request, parameter_totals(setup)
    return {
        "batch_size_per_gpu": training.batch,
        "max_batch_size_per_gpu": largest,
        "gradient_accumulation_steps": training.accumulation,
        "global_batch_size": training.global_batch,
        "dp_size": parallelism.dp_size,
        "tp_size": parallelism.tp_size,
        "pp_size": parallelism.pp_size,
        "sp_size": parallelism.sp_size,
        "ep_size": parallelism.ep_size,
        "ds_zero": request.stage.name,
        "total_num_gpus": parallelism.num_gpus,
        "seq_len": request.seq_len,
        "total_num_tokens": request.total_num_tokens,
        "num_params_total": totals.total,
        "num_params_total_mlp": totals.mlp,
        "num_params_total_embedding": totals.embedding,
        "num_params_total_others": totals.others,
        "num_active_params_total": totals.active,
        "activation_recomputation": request.options.recompute.name,
        "layernorm_dtype_bytes": request.options.layernorm_dtype_bytes,
        "mlp_activation_quant_bits": request.options.mlp_activation_quant_bits,
        "mlp_recompute_gelu": request.options.mlp_recompute_gelu,
        "mlp_gated_linear_units": any(layer.widths.gated for layer in setup.layers),
        "achieved_flops": setup.flops_per_s / 1e12,
        "flops_efficiency": setup.flops_efficiency,
        "hbm_memory_efficiency": setup.hbm_memory_efficiency,
    }


def _memory(setup: Setup, training: Training, states: ModelStates, kept: Activations) -> dict[str, float]:
    used = states.total + kept.total
    return {
        "weight_memory_per_gpu": states.weights,
        "weight_memory_embedding_per_gpu": states.embedding,
        "weight_memory_attn_per_gpu": states.layers.attention,
        "weight_memory_mlp_per_gpu": states.layers.mlp,
        "weight_memory_layernorm_per_gpu": states.layers.norms,
        "gradient_memory_per_gpu": states.gradients,
        "optimizer_state_memory_per_gpu": states.optimizer_state,
        "(weight+op_state+grad)_memory_per_gpu": states.total,
        "activation_memory_batch_size_1": kept.total / training.batch,
        "activation_memory_per_gpu": kept.total,
        "activation_memory_attn_per_gpu": kept.layers.attention,
        "activation_memory_mlp_per_gpu": kept.layers.mlp,
        "activation_memory_layernorm_per_gpu": kept.layers.norms,
        "activation_memory_embedding_output_per_gpu": kept.logits,
        "activation_memory_recompute_per_gpu": kept.rebuilt,
        "(weight+op_state+grad+act)_memory_per_gpu": used,
        "memory_left_per_gpu": setup.gpu.memory_bytes - used,
    }


def _latencies(
    setup: Setup, training: Training, times: StepTimes, iterations: int | None
) -> dict[str, float | None]:
    parallelism, pipelined = setup.parallelism, setup.parallelism.pp_size > 1
    step = latency.whole_pass(setup, training.batch, training.request.seq_len)
    flops = 3 * latency.forward_flops(setup, step)
    flops += recompute_flops(setup, step, training.request.options.recompute)
    ranks = parallelism.tp_size * parallelism.pp_size
    by_flops = training.accumulation * flops / (ranks * setup.flops_per_s)
    total = None if iterations is None else iterations * times.total_s
    return {
        "num_flops_total_per_micro_batch": flops,
        "latency_per_micro_batch": times.micro_batch_s,
        "latency_fwd": times.fwd.total_s,
        **times.fwd.breakdown("", pipelined),
        "latency_bwd": times.whole.backward,
        "latency_recompute": times.whole.recompute,
        "latency_sharded_dp_comm_exposed": times.whole.exposed,
        "latency_pipeline_bubble": times.bubble_s,
        "latency_gradient_dp_comm_exposed": times.gradient_exchange,
        "latency_weight_update": times.weight_update,
        "latency_per_iter": times.total_s,
        "iters_per_sec": 1 / times.total_s,
        "total_training_latency": total,
        "latency_per_iter_using_flops": by_flops,
        "total_training_latency_using_flops": None if iterations is None else iterations * by_flops,
        "gpu_hours": None if total is None else total * parallelism.num_gpus / 3600,
    }
