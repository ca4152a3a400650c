"""The oracle's summary of a training: llm-analysis' formulas and the right ones, with the same switches."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from tests.golden.oracle import GIB, LEVELS, Refused, _stage
from tests.golden.oracle_times import TimedOracle

PARTS = ("total", "attn", "mlp", "layernorm")


class Part(NamedTuple):
    """Seconds of one micro-batch on some layers: forward, backward, recomputation, exchange of the replicas."""

    forward: float
    backward: float
    again: float
    exchange: float

    def plus(self, other: Part, times: float = 1) -> Part:
        return Part(*(left + times * right for left, right in zip(self, other, strict=True)))


class TrainingOracle(TimedOracle):
    """`TimedOracle` with `training`."""

    def training(self, **call: Any) -> dict[str, Any]:
        self.call, self.zero = call, call["ds_zero"]
        self.level = LEVELS[call["activation_recomputation"]]
        self.s = self._seq_len(call["seq_len"])
        states = self._model_states()
        left = self.gpu["mem_per_GPU_in_GB"] * GIB - states["(weight+op_state+grad)_memory_per_gpu"]
        batch, steps, everyone = self._batching(left)
        one = self._activations(1, steps)["activation_memory_per_gpu"]
        most = math.floor(left / one)
        kept = self._activations(batch, steps)
        used = kept["activation_memory_per_gpu"]
        if batch == 1 and self.has("batch-one-twice"):
            used += self._logits_and_norm(1)
        if not self.has("training-fit"):
            most = max(0, most)
            if used > left:
                raise Refused("DoesNotFitError")
        tokens = call["total_num_tokens"]
        if tokens is None and self.has("no-token-count"):
            raise Refused("UnboundLocalError")
        flops = self._flops(batch)
        by_flops = steps * flops / (self.tp * self.pp * self.F)
        times = self._times(batch, steps, states)
        iterations = None if tokens is None else int(tokens / (everyone * self.s))
        total = None if iterations is None else iterations * times["latency_per_iter"]
        return {
            **self._model_keys(),
            **states,
            **kept,
            "batch_size_per_gpu": batch,
            "max_batch_size_per_gpu": most,
            "gradient_accumulation_steps": steps,
            "global_batch_size": everyone,
            "dp_size": self.dp,
            "tp_size": self.tp,
            "pp_size": self.pp,
            "sp_size": self.sp,
            "ep_size": self.ep,
            "ds_zero": ("NONE", "STAGE_1", "STAGE_2", "STAGE_3")[_stage(self.zero)],
            "total_num_gpus": self.tp * self.pp * self.dp,
            "seq_len": self.s,
            "total_num_tokens": tokens,
            "activation_recomputation": self.level,
            "layernorm_dtype_bytes": call["layernorm_dtype_bytes"],
            "mlp_activation_quant_bits": call["mlp_activation_quant_bits"],
            "mlp_recompute_gelu": call["mlp_recompute_gelu"],
            "mlp_gated_linear_units": self.gated,
            "achieved_flops": self.tflops,
            "activation_memory_batch_size_1": one,
            "activation_memory_per_gpu": used,
            "(weight+op_state+grad+act)_memory_per_gpu": states["(weight+op_state+grad)_memory_per_gpu"]
            + used,
            "memory_left_per_gpu": left - used,
            "num_flops_total_per_micro_batch": flops,
            **times,
            "total_training_latency": total,
            "latency_per_iter_using_flops": by_flops,
            "total_training_latency_using_flops": None if iterations is None else iterations * by_flops,
            "gpu_hours": None if total is None else total * self.tp * self.pp * self.dp / 3600,
        }

    # -- sizes

    def _seq_len(self, seq_len: int | None) -> int:
        if self.positions is None and self.has("no-positions"):
            raise Refused("TypeError")
        seq_len = self.positions if seq_len is None else seq_len
        if seq_len is None or (self.positions is not None and seq_len > self.positions):
            raise Refused("SpecError")
        return seq_len

    def _batching(self, left: float) -> tuple[int, int, int]:
        batch, steps, everyone = (
            self.call[key]
            for key in ("batch_size_per_gpu", "gradient_accumulation_steps", "global_batch_size")
        )
        share = None if everyone is None else everyone // self.dp
        if share is None:
            steps = steps or 1
        elif batch:
            steps = steps or max(1, share // batch)
        if batch is None and not (share and steps):
            # A batch for a pipeline of which all stages work.
            most = math.floor(left / self._activations(1, steps or self.pp)["activation_memory_per_gpu"])
            if most < 1 and not self.has("training-fit"):
                raise Refused("DoesNotFitError")
            batch = (
                most if share is None else max(d for d in range(1, share + 1) if share % d == 0 and d <= most)
            )
        batch = batch or share // steps
        steps = steps or share // batch
        if everyone is not None and everyone != batch * steps * self.dp:
            raise Refused("SpecError")
        return batch, steps, batch * steps * self.dp

    # -- memory

    def _model_states(self) -> dict[str, float]:
        layers = self._stage_layers()
        weights = [layers * part for part in self.get_weight_memory_per_layer(self.zero, True)]
        embedding = self.get_memory_embedding(self.zero)
        optimizer = (self.call["master_weights_dtype_bytes"], self.call["other_op_bytes"], self.zero)
        per_layer = self.get_memory_optimizer_state_and_gradient_per_layer(*optimizer)
        ends = (
            self.get_memory_optimizer_state_and_gradient_embedding(*optimizer),
            self.get_memory_optimizer_state_and_gradient_last_layernorm(*optimizer),
        )
        state, gradients = (layers * per_layer[i] + ends[0][i] + ends[1][i] for i in (0, 1))
        total_weights = weights[0] + embedding + self.get_weight_memory_last_layernorm(self.zero)
        return {
            "weight_memory_per_gpu": total_weights,
            "weight_memory_embedding_per_gpu": embedding,
            **{
                f"weight_memory_{name}_per_gpu": part
                for name, part in zip(PARTS[1:], weights[1:], strict=True)
            },
            "gradient_memory_per_gpu": gradients,
            "optimizer_state_memory_per_gpu": state,
            "(weight+op_state+grad)_memory_per_gpu": total_weights + gradients + state,
        }

    def _layer_kept(self, batch: int, level: str) -> tuple[float, ...]:
        options = ("layernorm_dtype_bytes", "flash_attn", "softmax_dropout", "mlp_recompute_gelu")
        bits = ("mlp_activation", "mlp_1linear", "mlp_gelu_input", "mlp_2linear")
        return self.get_activation_memory_per_layer(
            batch,
            self.s,
            False,
            level,
            return_breakdown=True,
            **{name: self.call[name] for name in options},
            **{f"{name}_quant_bits": self.call[f"{name}_quant_bits"] for name in bits},
        )

    def _logits_and_norm(self, batch: int) -> float:
        norm_bytes = self.call["layernorm_dtype_bytes"]
        logits = self.get_activation_memory_output_embedding(batch, self.s)
        return logits + self.get_activation_memory_per_layernorm(batch, self.s, norm_bytes)

    def _activations(self, batch: int, steps: int) -> dict[str, float]:
        kept, ends = self._layer_kept(batch, self.level), self._logits_and_norm(batch)
        rebuilt = max(0.0, self._layer_kept(batch, "NONE")[0] - kept[0])
        rebuilt = 0.0 if self.has("recompute-working-set") else rebuilt
        if self.pp == 1 or self.has("pipeline-activations"):
            held, total = self.L, self.L * kept[0] + ends
        else:
            layers = self._stage_layers()
            flight = min(self.pp, steps) * layers
            total = max(flight * kept[0], layers * kept[0] + ends)
            held = flight if flight * kept[0] > layers * kept[0] + ends else layers
        return {
            "activation_memory_per_gpu": total + rebuilt,
            **{
                f"activation_memory_{name}_per_gpu": held * part
                for name, part in zip(PARTS[1:], kept[1:], strict=True)
            },
            "activation_memory_embedding_output_per_gpu": self.get_activation_memory_output_embedding(
                batch, self.s
            ),
            "activation_memory_recompute_per_gpu": rebuilt,
        }

    # -- FLOPs

    def _flops(self, batch: int) -> float:
        forward = self.get_num_flops_fwd_total(batch, self.s)
        attention = self.L * self.get_num_flops_fwd_per_layer_attn(batch, self.s)
        head = 0 if self.has("recompute-head") else 2 * batch * self.s * self.h * self.V
        again = {
            "NONE": 0,
            "ATTN_COMPUTE": self.get_num_flops_total_attn_compute(batch, self.s),
            "ATTN": attention,
            "NORM_ATTN_NORM": attention,
            "FULL": forward - head,
        }
        return 3 * forward + again[self.level]

    # -- time

    def _times(self, batch: int, steps: int, states: dict[str, float]) -> dict[str, float]:
        sizes, norm_bytes = (batch, self.s), self.call["layernorm_dtype_bytes"]
        forward, parts = self.get_latency_fwd(
            *sizes, False, self.level, layernorm_dtype_bytes=norm_bytes, ds_zero=self.zero
        )
        layer, ends = self._layer_part(*sizes, norm_bytes), self._ends(*sizes)
        nothing = Part(0, 0, 0, 0)
        whole = nothing.plus(layer, self._passed_layers()).plus(ends[0]).plus(ends[1])
        longest_end = max(ends, key=self._micro)
        slowest = whole if self.pp == 1 else longest_end.plus(layer, self._stage_layers())
        hops = 2 * self._transfer(batch * self.s)
        again = self._old_recompute(*sizes, forward) if self.has("recompute-time") else whole.again
        if self.has("training-backward"):
            micro = 3 * forward + again
        else:
            micro = whole.forward + max(whole.backward + again, whole.exchange) + hops
        one = micro if self.pp == 1 or self.has("pipeline-latency") else self._micro(slowest)
        bubble = (self.pp - 1) * one if self.has("pipeline-latency") else micro - one
        update, exchange = self._update(states), self._exchange_at_the_end(slowest)
        step = steps * one + (0 if self.has("pipeline-bubble") else bubble) + exchange + update
        return {
            "latency_per_micro_batch": micro,
            "latency_fwd": forward,
            **parts,
            "latency_bwd": whole.backward,
            "latency_recompute": again,
            "latency_sharded_dp_comm_exposed": max(0, whole.exchange - whole.backward - whole.again),
            "latency_pipeline_bubble": bubble,
            "latency_gradient_dp_comm_exposed": exchange,
            "latency_weight_update": update,
            "latency_per_iter": step,
            "iters_per_sec": round(1 / step, 2) if self.has("iters-rounding") else 1 / step,
        }

    def _micro(self, part: Part) -> float:
        if self.has("training-backward"):
            return 3 * part.forward + part.again
        return part.forward + max(part.backward + part.again, part.exchange)

    def _layer_part(self, batch: int, s: int, norm_bytes: float) -> Part:
        total, parts = self.get_latency_fwd_per_layer(batch, s, False, self.level, norm_bytes, self.zero)
        exchanged = 2 * self.get_latency_fwd_per_layer_mlp_moe_alltoall(batch, s) if self.E > 1 else 0
        computed = parts["attn"] + parts["mlp"] - exchanged + parts["layernorm"]
        gather = parts["sharded_dp_comm"]
        if _stage(self.zero) >= 2 and not self.has("gradient-exchange"):
            gather += self._layer_gather(self.a)
        one_reduce = parts["tp_comm"] / 2
        attention = self.get_latency_fwd_per_layer_attn(batch, s, False)
        again = {
            "NONE": 0,
            "ATTN_COMPUTE": 4 * batch * s**2 * self.h / self.tp / self.F,
            "ATTN": attention + one_reduce,
            "NORM_ATTN_NORM": attention + one_reduce + parts["layernorm"],
            "FULL": sum(parts.values()) - parts["sharded_dp_comm"],
        }
        return Part(total, 2 * computed + exchanged + parts["tp_comm"], again[self.level], gather)

    def _ends(self, batch: int, s: int) -> tuple[Part, Part]:
        """The look-up, and the logits, which are a copy of the table where they are on another stage."""
        look_up = self.get_latency_fwd_input_embedding(batch, s, self.e)
        reduced = self.get_latency_fwd_per_tp_comm(batch, s, self.e)
        logits = self.get_latency_fwd_output_embedding_loss(batch, s)
        table = (
            self._table_gather(self.a) if _stage(self.zero) >= 2 and not self.has("gradient-exchange") else 0
        )
        back = 2 * logits + self.get_latency_fwd_per_tp_comm(batch, s, self.a)
        return Part(look_up, 2 * (look_up - reduced), 0, table), Part(
            logits, back, 0, table if self.pp > 1 else 0
        )

    def _old_recompute(self, batch: int, s: int, forward: float) -> float:
        attention = self.get_latency_fwd_per_layer_attn(batch, s, False)
        norms = 2 * self.get_latency_fwd_per_layernorm(batch, s, self.call["layernorm_dtype_bytes"])
        core = self.get_num_flops_total_attn_compute(batch, s) / (self.tp * self.pp * self.F)
        levels = (0, core, attention, attention + norms, forward)
        return dict(zip(LEVELS, levels, strict=True))[self.level]

    def _layer_gather(self, element: float) -> float:
        return self.get_latency_fwd_per_layer_shared_dp_comm() * element / self.w

    def _table_gather(self, element: float) -> float:
        return self.h * self.V / self.tp * element * (self.dp - 1) / self.dp / self.link(self.dp * self.tp)

    def _exchange_at_the_end(self, slowest: Part) -> float:
        stage, layers = _stage(self.zero), self._stage_layers()
        if self.dp == 1 or stage == 3 or self.has("gradient-exchange"):
            return 0
        weights = layers * self._layer_gather(self.w) + self._table_gather(self.e)
        gradients = layers * self._layer_gather(self.a) + self._table_gather(self.a)
        hidden = slowest.backward + slowest.again
        return (
            max(0, 2 * gradients - hidden),
            max(0, gradients - hidden) + weights,
            weights,
        )[stage]

    def _update(self, states: dict[str, float]) -> float:
        if self.has("update-traffic"):
            return states["(weight+op_state+grad)_memory_per_gpu"] / self.B
        dp, experts = (self.dp, self._mlp_replicas()) if _stage(self.zero) >= 1 else (1, 1)
        layer = self._mlp_rank() / experts
        layer += (
            self._attn_rank()
            + self.get_num_params_per_layer_router()
            + self.get_num_params_per_layer_layernorm()
        ) / dp
        master, other = self.call["master_weights_dtype_bytes"], self.call["other_op_bytes"]
        state = master + 2 * (master + (8 if other is None else other))
        table = self.h * self.V / self.tp / dp
        owned = self._stage_layers() * layer + self.h / dp
        return (owned * (state + self.w) + table * (state + self.e)) / self.B
