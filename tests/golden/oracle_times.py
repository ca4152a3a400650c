"""The oracle's seconds, and its summary of an inference."""

from __future__ import annotations

from typing import Any

from tests.golden.oracle import GIB, Oracle, Refused, _stage


class TimedOracle(Oracle):
    """`Oracle` with the methods that give seconds."""

    # -- modules

    def get_latency_fwd_per_layer_attn(
        self,
        batch_size: float,
        seq_len: float,
        is_inference: bool = True,
        activation_recomputation: str = "NONE",
        keys: float | None = None,
    ) -> float:
        compute = self.get_num_flops_fwd_per_layer_attn(batch_size, seq_len, keys) / self.tp / self.F
        moved = self.get_activation_memory_per_layer_attn(batch_size, seq_len, is_inference)
        return max(compute, (self._attn_rank() * self.w + moved) / self.B)

    def get_latency_fwd_per_layer_mlp(
        self,
        batch_size: float,
        seq_len: float,
        is_inference: bool = True,
        activation_recomputation: str = "NONE",
    ) -> float:
        compute = self.get_num_flops_fwd_per_layer_mlp(batch_size, seq_len) / self.tp / self.F
        gated = self.gated and not self.has("gated-activations")
        level = activation_recomputation if self.has("full-forward") else "NONE"
        moved = self.get_activation_memory_per_layer_mlp(
            batch_size, seq_len, is_inference, level, gated_linear_units=gated
        )
        memory = (self._mlp_read(batch_size * seq_len) * self.w + moved) / self.B
        exchange = self.get_latency_fwd_per_layer_mlp_moe_alltoall(batch_size, seq_len) if self.E > 1 else 0
        return max(compute, memory) + 2 * exchange

    def _mlp_read(self, tokens: float) -> float:
        if self.E == 1 or self.has("moe-experts-read"):
            return self._mlp_rank()
        spared = (1 - self.k / self.E) ** (tokens * min(self.ep, self.dp))
        return self._mlp_rank() * (1 - spared) + self.get_num_params_per_layer_router()

    def get_latency_fwd_per_layer_mlp_moe_alltoall(self, batch_size: float, seq_len: float) -> float:
        size = self.k * batch_size * seq_len * self.h * self.a
        if self.has("moe-all-to-all"):
            return size / (self.intra if self.ep <= 8 else self.inter) / 1e9
        return size * (self.ep - 1) / self.ep / self.link(self.tp * min(self.ep, self.dp))

    def get_latency_fwd_per_layernorm(
        self, batch_size: float, seq_len: float, dtype_bytes: float = 4
    ) -> float:
        element = 4 if self.has("norm-bytes") else dtype_bytes
        return self.get_activation_memory_per_layernorm(batch_size, seq_len, element) / self.B

    def get_latency_fwd_per_tp_comm(self, batch_size: float, seq_len: float, dtype_bytes: float) -> float:
        if self.tp == 1:
            return 0
        rate = self.link(self.tp)
        if self.has("tp-link"):
            rate = self.gpu["intra_node_bandwidth_in_GB_per_sec"] * 1e9
        size = batch_size * seq_len * self.h * dtype_bytes
        return max(2 * size * (self.tp - 1) / self.tp / rate, self.least)

    def get_latency_fwd_per_layer_shared_dp_comm(self) -> float:
        if self.has("zero-shards"):
            mlp, others = self.get_num_params_per_layer_mlp() / self.ep, self._others_per_layer()
        else:
            router = self.get_num_params_per_layer_router() / self.tp
            mlp, others = (
                self._mlp_rank(),
                self._attn_rank() + router + self.get_num_params_per_layer_layernorm(),
            )
        if self.has("zero-link"):
            rate = 1e9 * (self.intra if self.dp <= 8 else self.inter)
        else:
            rate = self.link(self.dp * self.tp)
        replicas = self._mlp_replicas()
        return self.w * (mlp * (replicas - 1) / replicas + others * (self.dp - 1) / self.dp) / rate

    # -- a layer, the ends, a pass

    def get_latency_fwd_per_layer(
        self,
        batch_size: float,
        seq_len: float,
        is_inference: bool = True,
        activation_recomputation: str = "NONE",
        layernorm_dtype_bytes: float = 4,
        ds_zero: Any = 0,
        keys: float | None = None,
    ) -> tuple[float, dict[str, float]]:
        sizes = (batch_size, seq_len, is_inference, activation_recomputation)
        gathers = _stage(ds_zero) == 3 or self.has("zero-stage")
        parts = {
            "attn": self.get_latency_fwd_per_layer_attn(*sizes, keys),
            "mlp": self.get_latency_fwd_per_layer_mlp(*sizes),
            "layernorm": 2 * self.get_latency_fwd_per_layernorm(batch_size, seq_len, layernorm_dtype_bytes),
            "tp_comm": 2 * self.get_latency_fwd_per_tp_comm(batch_size, seq_len, self.a),
        }
        gather = self.get_latency_fwd_per_layer_shared_dp_comm() if gathers else 0
        return max(sum(parts.values()), gather), {**parts, "sharded_dp_comm": gather}

    def get_latency_fwd_input_embedding(
        self, batch_size: float, seq_len: float, dtype_bytes: float = 4
    ) -> float:
        rows = self.V if self.has("input-lookup") else batch_size * seq_len
        comm = self.get_latency_fwd_per_tp_comm(batch_size, seq_len, dtype_bytes)
        return rows * self.h * dtype_bytes / self.B + comm

    def get_latency_fwd_output_embedding_loss(self, batch_size: float, seq_len: float) -> float:
        compute = 2 * batch_size * seq_len * self.h * self.V / self.tp / self.F
        compute /= self.pp if self.has("pipeline-latency") else 1
        if self.has("head-read"):
            return compute
        return max(compute, self.V * self.h * self.e / self.tp / self.B)

    def _passed_layers(self) -> int:
        """Layers that one request's latency is made of."""
        return self._stage_layers() if self.has("pipeline-latency") else self.L

    def _stage_layers(self) -> int:
        return self.L // self.pp if self.has("pipeline-stages") else -(-self.L // self.pp)

    def _transfer(self, tokens: float) -> float:
        hop = tokens * self.h * self.a / self.link(self.tp * self.pp * self.dp)
        return 0 if self.has("pipeline-latency") else (self.pp - 1) * max(hop, self.least)

    def get_latency_fwd(
        self,
        batch_size: float,
        seq_len: float,
        is_inference: bool = True,
        activation_recomputation: str = "NONE",
        layernorm_dtype_bytes: float = 4,
        breakdown_prefix: str = "",
        ds_zero: Any = 0,
        keys: float | None = None,
    ) -> tuple[float, dict[str, float]]:
        layer, parts = self.get_latency_fwd_per_layer(
            batch_size, seq_len, is_inference, activation_recomputation, layernorm_dtype_bytes, ds_zero, keys
        )
        layers = self._passed_layers()
        named = {name: layers * seconds for name, seconds in parts.items()}
        named["input_embedding"] = self.get_latency_fwd_input_embedding(batch_size, seq_len, self.e)
        named["output_embedding_loss"] = self.get_latency_fwd_output_embedding_loss(batch_size, seq_len)
        ends = named["input_embedding"] + named["output_embedding_loss"]
        if self.pp > 1 and not self.has("pipeline-latency"):
            named["pp_comm"] = self._transfer(batch_size * seq_len)
        total = layers * layer + ends + self._transfer(batch_size * seq_len)
        return total, {f"{breakdown_prefix}latency_fwd_{name}": value for name, value in named.items()}

    # -- the summary

    def inference(
        self,
        batch_size_per_gpu: int,
        seq_len: int,
        num_tokens_to_generate: int,
        use_kv_cache: bool,
        ds_zero: int,
        layernorm_dtype_bytes: float,
        kv_cache_dtype_bytes: float | None,
        cost_per_gpu_hour: float | None,
    ) -> dict[str, Any]:
        batch, gen = batch_size_per_gpu, num_tokens_to_generate
        if batch <= 0 and not self.has("bad-input"):
            raise Refused("SpecError")
        length = seq_len if self.has("context-limit") else seq_len + gen
        if self.positions is not None and length > self.positions:
            raise Refused("SpecError")
        decodes = gen > 1 or self.has("no-decode-phase")
        memory = self._memory(
            batch, seq_len, gen, use_kv_cache, ds_zero, layernorm_dtype_bytes, kv_cache_dtype_bytes
        )
        prefill_flops = self.get_num_flops_fwd_total(batch, seq_len)
        norm_bytes, zero = layernorm_dtype_bytes, ds_zero
        prefill, prefill_parts = self.get_latency_fwd(
            batch, seq_len, layernorm_dtype_bytes=norm_bytes, breakdown_prefix="prefill_", ds_zero=zero
        )
        mean = seq_len + gen / 2
        tokens, keys = 1, mean
        if use_kv_cache and self.has("decode-context"):
            keys = 1
        if not use_kv_cache:
            tokens = keys = (seq_len + gen) // 2 if self.has("no-cache-context") else mean
        kv_read = 0.0
        if use_kv_cache:
            reads, context = (2, seq_len + gen) if self.has("kv-read") else (1, mean)
            per_layer = self.get_memory_kv_cache_per_layer(batch, context, kv_cache_dtype_bytes)
            kv_read = reads * per_layer * self._passed_layers() / self.B
        step, step_parts = self.get_latency_fwd(
            batch,
            tokens,
            layernorm_dtype_bytes=norm_bytes,
            breakdown_prefix="decode_",
            ds_zero=zero,
            keys=keys,
        )
        step += kv_read
        steps = gen if self.has("first-token") else gen - 1
        decode_total = step * steps if decodes else 0
        total = prefill + decode_total
        decode_only = {
            "kv_cache_latency": kv_read,
            "decode_activation_memory_per_gpu": memory.pop("decode_activation"),
            "decode_max_batch_size_per_gpu": memory.pop("decode_max_batch"),
            "decode_num_flops_fwd_total": self.get_num_flops_fwd_total(batch, tokens, keys),
            "decode_latency": step,
            **step_parts,
            "decode_tokens_per_sec": batch / step,
        }
        rates = {
            "prefill_tokens_per_sec": batch * seq_len / prefill,
            "decode_tokens_per_sec": batch / step if decodes else None,
            "total_tokens_per_sec": batch * gen / total,
        }
        return {
            **self._model_keys(),
            **memory,
            "prefill_num_flops_fwd_total": prefill_flops,
            "prefill_latency": prefill,
            **prefill_parts,
            **(decode_only if decodes else dict.fromkeys(decode_only)),
            "total_decode_latency": decode_total,
            "total_latency": total,
            "total_per_token_latency": total / gen,
            **rates,
            **self._costs(rates, cost_per_gpu_hour),
        }

    def _model_keys(self) -> dict[str, float]:
        total, mlp = self.get_num_params_total(), self.L * self.get_num_params_per_layer_mlp()
        return {
            "num_params_total": total,
            "num_params_total_mlp": mlp,
            "num_params_total_embedding": self.h * self.V,
            "num_params_total_others": total - mlp - self.h * self.V,
            "num_active_params_total": self.get_num_active_params_total(),
            "flops_efficiency": self.flops_share,
            "hbm_memory_efficiency": self.hbm_share,
        }

    def _costs(self, rates: dict[str, float | None], hourly: float | None) -> dict[str, float]:
        if not hourly:
            return {}
        price = 1000 * hourly * self.tp * self.pp / 3600
        return {
            f"{phase}_cost_per_1k_tokens": price / rate
            for phase in ("prefill", "decode", "total")
            if (rate := rates[f"{phase}_tokens_per_sec"])
        }

    def _memory(
        self,
        batch: int,
        seq_len: int,
        gen: int,
        use_kv_cache: bool,
        zero: int,
        norm_bytes: float,
        kv_bytes: float | None,
    ) -> dict[str, float]:
        layers = self._stage_layers()
        embedding = self.get_memory_embedding(zero)
        weights = layers * self.get_weight_memory_per_layer(zero) + embedding
        weights += self.get_weight_memory_last_layernorm(zero)
        capacity = self.gpu["mem_per_GPU_in_GB"] * GIB
        left = capacity - weights

        def layer(size: int, length: int) -> float:
            return self.get_activation_memory_per_layer(size, length, layernorm_dtype_bytes=norm_bytes)

        def widest(size: int, length: int) -> float:
            return max(layer(size, length), self.get_activation_memory_output_embedding(size, length))

        prefill, prefill_one = widest(batch, seq_len), widest(1, seq_len)
        decode = widest(batch, 1) if use_kv_cache else layer(batch, seq_len + gen)
        kv = (
            layers * self.get_memory_kv_cache_per_layer(batch, seq_len + gen, kv_bytes) if use_kv_cache else 0
        )
        if self.has("max-batch"):
            prefill_max = int(left / prefill_one)
            decode_max = int(left / ((decode + kv) / batch)) if use_kv_cache else prefill_max
            fits = (
                left > max(prefill, decode + kv) if use_kv_cache else left > prefill and batch <= decode_max
            )
        else:
            # The cache is there from the start, and a pass without one may need as much as the prefill.
            need = decode if use_kv_cache else max(prefill, decode)
            prefill_max, decode_max = (int(left / ((part + kv) / batch)) for part in (prefill, need))
            fits = weights + kv + max(prefill, decode) <= capacity
        if not fits:
            raise Refused("DoesNotFitError")
        return {
            "kv_cache_memory_per_gpu": kv,
            "weight_memory_per_gpu": weights,
            "weight_memory_embedding_per_gpu": embedding,
            "prefill_activation_memory_per_gpu": prefill,
            "prefill_max_batch_size_per_gpu": prefill_max,
            "decode_activation": decode,
            "decode_max_batch": decode_max,
        }
