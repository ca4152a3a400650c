"""llm-analysis' formulas and the right ones, in plain numbers, with a switch for every departure.

`Oracle(case, faults)` answers like llm-analysis for each departure in ``faults`` and like llm-perf is meant to for
every other. With all faults it has to reproduce the stored results, with none llm-perf's: so a departure is held from
both sides, and its influence is what changes when its switch does. It shares no code with llm_perf.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tests.golden.reference import Case

GIB = 2**30
LEVELS = ("NONE", "ATTN_COMPUTE", "ATTN", "NORM_ATTN_NORM", "FULL")


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """The question gets no numbers; the text says what is raised instead."""


class Oracle:
    """One case. Methods have the names and arguments of `LLMAnalysis`; enumerations are names or numbers."""

    def __init__(self, case: Case, faults: Collection[str]) -> None:
        self.has = frozenset(faults).__contains__
        model, gpu, bits, ranks = case.model, case.gpu, case.dtype, case.parallelism
        self.L, self.H, self.h, self.V = (
            model["num_layers"],
            model["n_head"],
            model["hidden_dim"],
            model["vocab_size"],
        )
        self.K, self.f = model["num_key_value_heads"], model["ffn_embed_dim"]
        self.E, self.k = model["moe_num_experts"], model["moe_top_k"]
        self.gated, self.positions = model["mlp_gated_linear_units"], model["max_seq_len"]
        self.d = self.h / self.H
        self.tp, self.pp = ranks.get("tp_size", 1), ranks.get("pp_size", 1)
        self.dp, self.ep = ranks.get("dp_size", 1), ranks.get("ep_size", 1)
        self.sp = ranks.get("sp_size", self.tp)
        self.w, self.a = bits["weight_bits"] / 8, bits["activation_bits"] / 8
        self.e = bits["embedding_bits"] / 8
        self.wide = max(bits["weight_bits"], bits["activation_bits"])
        self.gpu, self.settings = gpu, case.constructor
        self.kv_rank = max(self.K / self.tp, 1)  # key/value heads on one rank, at least one
        self._check_inputs()
        self._set_rates()

    def _check_inputs(self) -> None:
        if self.has("bad-input"):
            return
        if self.H % self.tp or (self.ep > 1 and self.E == 1) or self.settings.get("flops_efficiency") == 0:
            raise Refused("SpecError")

    def _set_rates(self) -> None:
        s, gpu = self.settings, self.gpu
        peaks = {4: gpu["peak_i4_TFLOPS"], 8: gpu["peak_i8_TFLOPS"], 16: gpu["peak_fp16_TFLOPS"]}
        compared = gpu["peak_fp16_TFLOPS"] if self.has("achieved-peak") else peaks[self.wide]
        achieved, bandwidth = s.get("achieved_tflops"), s.get("achieved_memory_bandwidth_GBs")
        self.flops_share = achieved / compared if achieved else s.get("flops_efficiency") or 1
        hbm = gpu["hbm_bandwidth_in_GB_per_sec"]
        self.hbm_share = bandwidth / hbm if bandwidth else s.get("hbm_memory_efficiency") or 1
        self.tflops, self.hbm = peaks[self.wide] * self.flops_share, hbm * self.hbm_share
        self.F, self.B = self.tflops * 1e12, self.hbm * 1e9
        self.intra = gpu["intra_node_bandwidth_in_GB_per_sec"] * s.get("intra_node_memory_efficiency", 1.0)
        self.inter = gpu["inter_node_bandwidth_in_GB_per_sec"] * s.get("inter_node_memory_efficiency", 1.0)
        self.least = gpu["intra_node_min_message_latency"]

    def link(self, span: int) -> float:
        return 1e9 * (self.intra if span <= 8 else min(self.intra, self.inter))

    # -- rates

    def get_TFLOPS_per_gpu(self) -> float:  # noqa: N802
        return self.tflops

    def get_gpu_hbm_bandwidth(self) -> float:
        return self.hbm

    def get_intra_node_bandwidth(self) -> float:
        return self.intra

    def get_inter_node_bandwidth(self) -> float:
        return self.inter

    def get_pivot(self) -> float:
        return self.F * self.a / self.B / 2

    # -- parameters

    def get_num_params_embedding(self, shared_embedding: bool = True) -> float:
        return self.h * self.V * (1 if shared_embedding else 2)

    def get_num_params_per_layer_attn(self) -> float:
        kv_heads = self.kv_rank * self.tp if self.has("params-tp") else self.K
        return 2 * self.h**2 + 2 * self.h * kv_heads * self.d

    def get_num_params_per_layer_mlp(self) -> float:
        return (3 if self.gated else 2) * self.h * self.f * self.E

    def get_num_params_per_layer_router(self) -> float:
        return self.h * self.E if self.E > 1 else 0

    def get_num_params_per_layer_layernorm(self) -> float:
        return 2 * self.h

    def get_num_params_last_layernorm(self) -> float:
        return self.h

    def _others_per_layer(self) -> float:
        return (
            self.get_num_params_per_layer_attn()
            + self.get_num_params_per_layer_router()
            + self.get_num_params_per_layer_layernorm()
        )

    def get_num_params_per_layer(self) -> float:
        return self._others_per_layer() + self.get_num_params_per_layer_mlp()

    def get_num_active_params_per_layer(self) -> float:
        return self._others_per_layer() + self.get_num_params_per_layer_mlp() * self.k / self.E

    def get_num_params_total(self) -> float:
        return self.L * self.get_num_params_per_layer() + self.h * self.V + self.h

    def get_num_active_params_total(self) -> float:
        return self.L * self.get_num_active_params_per_layer() + self.h * self.V + self.h

    # -- weights and cache of one GPU

    def _attn_rank(self) -> float:
        return 2 * self.h**2 / self.tp + 2 * self.h * self.kv_rank * self.d

    def _mlp_rank(self) -> float:
        """Feed-forward elements of one rank: its experts, split over what tensor parallelism is left to them."""
        ways = self.tp if self.has("moe-expert-layout") or self.ep <= self.dp else self.tp * self.dp / self.ep
        return self.get_num_params_per_layer_mlp() / self.ep / ways

    def _mlp_replicas(self) -> float:
        """Ranks with the same part of the same experts."""
        return self.dp / self.ep if self.has("moe-expert-layout") else max(self.dp / self.ep, 1)

    def get_weight_memory_per_layer(self, ds_zero: Any = 0, return_breakdown: bool = False) -> Any:
        dp, experts = (self.dp, self._mlp_replicas()) if _stage(ds_zero) == 3 else (1, 1)
        attn = self._attn_rank() * self.w / dp
        mlp = (self._mlp_rank() + self.get_num_params_per_layer_router() / self.tp) * self.w / experts
        norms = self.get_num_params_per_layer_layernorm() * self.w / dp
        return (attn + mlp + norms, attn, mlp, norms) if return_breakdown else attn + mlp + norms

    def get_weight_memory_last_layernorm(self, ds_zero: Any = 0) -> float:
        return self.h * self.w / self.tp / (self.dp if _stage(ds_zero) == 3 else 1)

    def get_memory_embedding(self, ds_zero: Any = 0) -> float:
        return self.h * self.V * self.e / self.tp / (self.dp if _stage(ds_zero) == 3 else 1)

    def get_memory_kv_cache_per_layer(
        self, batch_size: float, seq_len: float, kv_cache_dtype_bytes: float | None = None
    ) -> float:
        element = self.a if kv_cache_dtype_bytes is None else kv_cache_dtype_bytes
        return 2 * batch_size * seq_len * self.d * self.kv_rank * element

    # -- optimizer state and gradients

    def _state(self, params: float, experts: float, master: float, other: float | None, zero: Any) -> Any:
        moments = 8 if other is None else other
        op_bytes = 12 if other is None and self.has("adam-master") else master + moments
        replicas = [(self.dp, self._mlp_replicas()) if _stage(zero) >= first else (1, 1) for first in (1, 2)]
        held = [params / dp + experts / expert_dp for dp, expert_dp in replicas]
        return held[0] * op_bytes, held[1] * master

    def get_memory_optimizer_state_and_gradient_per_layer(
        self, master_weights_dtype_bytes: float = 4, other_op_bytes: float | None = None, ds_zero: Any = 0
    ) -> Any:
        split = self.get_num_params_per_layer_router() + self.get_num_params_per_layer_layernorm()
        params = self._attn_rank() + split / self.tp
        return self._state(params, self._mlp_rank(), master_weights_dtype_bytes, other_op_bytes, ds_zero)

    def get_memory_optimizer_state_and_gradient_embedding(
        self, master_weights_dtype_bytes: float = 4, other_op_bytes: float | None = None, ds_zero: Any = 0
    ) -> Any:
        params = self.h * self.V / self.tp
        return self._state(params, 0, master_weights_dtype_bytes, other_op_bytes, ds_zero)

    def get_memory_optimizer_state_and_gradient_last_layernorm(
        self, master_weights_dtype_bytes: float = 4, other_op_bytes: float | None = None, ds_zero: Any = 0
    ) -> Any:
        return self._state(self.h / self.tp, 0, master_weights_dtype_bytes, other_op_bytes, ds_zero)

    # -- activations

    def get_activation_memory_per_layer_attn(
        self,
        batch_size: float,
        seq_len: float,
        is_inference: bool = True,
        flash_attn: bool = True,
        softmax_dropout: bool = False,
        attn_dropout: bool = True,
        activation_recomputation: str = "NONE",
    ) -> float:
        tokens, level = batch_size * seq_len, LEVELS.index(activation_recomputation)
        h, heads = self.h, self.H / self.tp
        kv = 2 * h / self.tp if self.has("gqa-activations") else 2 * self.kv_rank * self.d
        per_token = 2 * h / self.tp + 4 * heads if flash_attn else 2 * heads * seq_len
        core = tokens * per_token * self.a + (heads * tokens * seq_len if softmax_dropout else 0)
        if is_inference:
            return max(tokens * (h / self.tp + kv) * self.a, core)
        if level >= 3:
            return 0
        if level == 2:
            return tokens * h * self.a / self.sp
        kept = tokens * (h / self.sp + 2 * h / self.tp + kv) * self.a
        return kept + (core if level == 0 else 0) + (tokens * h / self.sp if attn_dropout else 0)

    def get_activation_memory_per_layer_mlp(
        self,
        batch_size: float,
        seq_len: float,
        is_inference: bool = True,
        activation_recomputation: str = "NONE",
        mlp_activation_quant_bits: int | None = None,
        mlp_1linear_quant_bits: int | None = None,
        mlp_gelu_input_quant_bits: int | None = None,
        mlp_2linear_quant_bits: int | None = None,
        recompute_gelu: bool = False,
        gated_linear_units: bool = False,
        with_dropout: bool = False,
    ) -> float:
        tokens, h = batch_size * seq_len, self.h
        given = (mlp_1linear_quant_bits, mlp_gelu_input_quant_bits, mlp_2linear_quant_bits)
        first, middle, last = ((mlp_activation_quant_bits or bits or 8 * self.a) / 8 for bits in given)
        if is_inference:
            return max(first * h, middle * self.f) * tokens * self.k / self.tp
        if activation_recomputation == "FULL":
            return 0
        if self.E > 1:
            inputs = 2 * self.a * h / self.sp + first * self.k * (h + 1) + first * self.k * h / self.sp
        else:
            inputs = self.a * h / self.sp
        if not gated_linear_units:
            inner = middle + (0 if recompute_gelu else last)
        elif self.has("gated-activations"):
            inner = middle / 3 if recompute_gelu else middle + last
        else:
            inner = 2 * middle + (0 if recompute_gelu else last)
        dropout = h / self.sp if with_dropout else 0
        return tokens * (inputs + inner * self.f * self.k / self.tp + dropout)

    def get_activation_memory_per_layernorm(
        self, batch_size: float, seq_len: float, dtype_bytes: float = 4
    ) -> float:
        return batch_size * seq_len * self.h / self.sp * dtype_bytes

    def get_activation_memory_output_embedding(self, batch_size: float, seq_len: float) -> float:
        return self.V * batch_size * seq_len * self.a / self.tp

    def get_activation_memory_per_layer(
        self,
        batch_size: float,
        seq_len: float,
        is_inference: bool = True,
        activation_recomputation: str = "NONE",
        layernorm_dtype_bytes: float = 4,
        flash_attn: bool = True,
        softmax_dropout: bool = False,
        mlp_recompute_gelu: bool = False,
        return_breakdown: bool = False,
        **quant_bits: int,
    ) -> Any:
        level = activation_recomputation
        if level == "FULL":
            kept = batch_size * seq_len * self.h * self.a / self.tp
            return (kept, 0, 0, kept) if return_breakdown else kept
        sizes = (batch_size, seq_len, is_inference)
        attn = self.get_activation_memory_per_layer_attn(
            *sizes, flash_attn, softmax_dropout, activation_recomputation=level
        )
        mlp = self.get_activation_memory_per_layer_mlp(
            *sizes, level, recompute_gelu=mlp_recompute_gelu, gated_linear_units=self.gated, **quant_bits
        )
        norm = self.get_activation_memory_per_layernorm(batch_size, seq_len, layernorm_dtype_bytes)
        if is_inference:
            return max(attn, mlp, norm)
        norms = norm if level == "NORM_ATTN_NORM" else 2 * norm
        return (attn + mlp + norms, attn, mlp, norms) if return_breakdown else attn + mlp + norms

    # -- FLOPs

    def get_num_flops_fwd_per_layer_attn(
        self, batch_size: float, seq_len: float, keys: float | None = None
    ) -> float:
        keys = seq_len if keys is None else keys
        tokens, h = batch_size * seq_len, self.h
        return 4 * tokens * h**2 * (1 + self.K / self.H) + 4 * tokens * keys * h

    def get_num_flops_fwd_per_layer_mlp(self, batch_size: float, seq_len: float) -> float:
        matrices = 3 if self.gated and not self.has("gated-flops") else 2
        per_token = 2 * matrices * self.h * self.f
        if self.E > 1 and not self.has("moe-flops"):
            per_token = per_token * self.k + 2 * self.h * self.E
        return batch_size * seq_len * per_token

    def get_num_flops_fwd_per_layer(
        self, batch_size: float, seq_len: float, keys: float | None = None
    ) -> float:
        attn = self.get_num_flops_fwd_per_layer_attn(batch_size, seq_len, keys)
        return attn + self.get_num_flops_fwd_per_layer_mlp(batch_size, seq_len)

    def get_num_flops_fwd_total(self, batch_size: float, seq_len: float, keys: float | None = None) -> float:
        tokens = batch_size * seq_len
        if self.has("flops-check") and self.K == self.H:
            # llm-analysis compares its own count with that of a model whose feed-forward width is 4 h.
            rest = 4 * tokens * self.L * self.h * (2 * self.h + seq_len) + 2 * tokens * self.h * self.V
            counted, expected = (
                rest + 4 * tokens * self.L * self.h * width for width in (self.f, 4 * self.h)
            )
            if abs(counted - expected) >= 0.01 * abs(expected):
                raise Refused("AssertionError")
        layers = self.L * self.get_num_flops_fwd_per_layer(batch_size, seq_len, keys)
        return layers + 2 * tokens * self.h * self.V

    def get_num_flops_bwd_total(self, batch_size: float, seq_len: float) -> float:
        return 2 * self.get_num_flops_fwd_total(batch_size, seq_len)

    def get_num_flops_total_attn_compute(self, batch_size: float, seq_len: float) -> float:
        return 4 * batch_size * seq_len**2 * self.h * self.L


def _stage(ds_zero: Any) -> int:
    return {"NONE": 0, "STAGE_1": 1, "STAGE_2": 2, "STAGE_3": 3}.get(ds_zero, ds_zero)
