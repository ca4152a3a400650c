"""Bytes of a training job term by term: state by ZeRO stage and tier, activations in flight, logits, buffers, temporaries.

Every term says during which phases of a step it exists; what a GPU needs is the sum at its fullest moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from llm_perf.config.gpu import format_bits
from llm_perf.config.model import LayerGroup
from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO
from llm_perf.config.training import KEPT_SHARES, LossKind, TrainingScenario, matrix_format
from llm_perf.counts.activations import (
    KeptOptions,
    activation_widths,
    layer_kept_bytes,
    modules_kept_less_bytes,
    product_output_bytes,
)
from llm_perf.counts.arrays import Number, any_of, maximum, minimum, where
from llm_perf.counts.trained import adapter_input_elements
from llm_perf.systems.terms import Factor, Quantity
from llm_perf.systems.training.base import (
    ALWAYS,
    BACKWARD,
    BACKWARD_END,
    FORWARD,
    LOAD,
    PASSES,
    STEP,
    TRAINING,
    MemoryTerm,
    TrainingLoad,
    TrainingMemory,
    TrainingMemoryParts,
    fullest,
    moments_of,
)
from llm_perf.systems.training.loss import Loss
from llm_perf.systems.training.state import Stage, StageParams, State

_GIB = 2**30
_NARROW_MOMENTS = frozenset({"adam8bit", "adam4bit"})
"""Optimizers whose moments are widened to be updated; paged ones are bitsandbytes', whose kernel widens in registers."""
_ZERO = "arXiv 1910.02054, section 5"
_KEPT = "arXiv 2205.05198, sections 4 and 4.2.3"


class Footprint(State):
    """Memory of one scenario under a framework's constants. What does not depend on the load is counted once."""

    def __init__(
        self, scenario: TrainingScenario, constants: dict[str, float], loss: LossKind = "vocab-parallel"
    ) -> None:
        super().__init__(scenario, constants)
        self.loss = Loss(scenario, constants, loss)

    # -- activations -------------------------------------------------------------------------------------------

    def kept_options(self) -> KeptOptions:
        """How much of a layer is kept."""
        plan, c = self.plan, self.constants
        quant = plan.mlp_activation_quant_bits
        return KeptOptions(
            element_bytes=plan.wide_bytes,
            norm_bytes=max(plan.layernorm_dtype_bytes, plan.wide_bytes),
            flash=plan.flash_attn,
            softmax_dropout=plan.softmax_dropout,
            dropout=plan.dropout,
            recompute_activation=plan.mlp_recompute_gelu,
            mlp_bytes=None if quant is None else quant / 8,
            hidden_vectors=c["compiled_hidden_vectors" if plan.compile else "kept_hidden_vectors"],
            ffn_vectors=0.0 if plan.compile else c["kept_ffn_vectors"],
            routed_copies=c["kept_routed_copies"],
        )

    def layer_bytes(
        self, group: LayerGroup, load: TrainingLoad, recompute: ActivationRecomputation | None = None
    ) -> Number:
        """Bytes of one layer that one micro-batch keeps."""
        level = self.plan.activation_recomputation if recompute is None else recompute
        kept = layer_kept_bytes(
            self.model, group, load.micro_batch, load.seq_len, self.kept_options(), level,
            self.p.tp_size, self.p.sp_size, self.p.cp_size,
        )  # fmt: skip
        tokens = self._tokens(load)
        if level.value <= ActivationRecomputation.ATTN_COMPUTE.value:
            kept = kept - tokens * self._narrow_inputs_bytes(group)
        if recompute is None and self.plan.recompute_modules:
            kept = kept - modules_kept_less_bytes(
                self.model, group, load.micro_batch, load.seq_len, self.kept_options(),
                frozenset(self.plan.recompute_modules), self.p.tp_size, self.p.sp_size, self.p.cp_size,
            )  # fmt: skip
        if level is not ActivationRecomputation.FULL:
            return kept + tokens * self._adapter_bytes_per_token(group)
        products, core = product_output_bytes(
            self.model, group, tokens, self.plan.wide_bytes, self.p.tp_size, self.p.sp_size
        )
        share = KEPT_SHARES[self.plan.kept_products]
        return kept + share * products + (core if share else 0.0)

    def _narrow_inputs_bytes(self, group: LayerGroup) -> float:
        """Bytes per token that inputs of quantised products take less than in 16 bits, where narrow copies alone are kept.

        A weight's gradient needs its product's input once more, in the format in which it is multiplied.
        """
        plan = self.plan
        bits = format_bits(matrix_format(self.scenario.gpu, plan.compute_dtype))
        saved = plan.wide_bytes - bits / 8
        if saved <= 0 or plan.lora_rank or not self.constants["narrow_inputs_kept"]:
            return 0.0
        widths = activation_widths(self.model, group, self.p.tp_size)
        elements = widths.hidden / self.p.sp_size + widths.context if widths.heads else 0.0
        blocks = bool(group.mlp.ffn_size) and plan.mlp_activation_quant_bits is None
        if blocks and not {"moe", "mlp"} & set(plan.recompute_modules):
            elements += widths.hidden * (widths.experts or 1 / self.p.sp_size)
            again = plan.mlp_recompute_gelu or "moe_act" in plan.recompute_modules
            elements += 0.0 if again else widths.ffn
        return elements * saved * (1 - plan.wide_layers / self.model.num_layers)

    def _adapter_bytes_per_token(self, group: LayerGroup) -> float:
        """Copies and masks of what enters adapters under dropout; less what frozen matrices alone do not keep."""
        plan = self.plan
        if not plan.lora_rank:
            return 0.0
        more = self.constants["adapter_input_bytes"] * adapter_input_elements(
            self.model, group, plan.lora_targets, self.p.tp_size
        )
        kept_anyway = self.quantised and self.constants["frozen_inputs_kept"]
        if plan.lora_targets == "all" or group.mlp.routed_experts or kept_anyway:
            return more
        # A frozen matrix needs no input for its gradient: neither the block's input nor the product before its last one.
        widths = activation_widths(self.model, group, self.p.tp_size)
        return more - plan.wide_bytes * (widths.hidden / self.p.sp_size + widths.ffn)

    def mean_layer_bytes(self, group: LayerGroup, load: TrainingLoad) -> Number:
        """Bytes that one micro-batch keeps of a layer, the mean over those that recompute and the others."""
        share = recomputing_share(self.scenario)
        kept = share * self.layer_bytes(group, load)
        if share < 1:
            kept = kept + (1 - share) * self.layer_bytes(group, load, ActivationRecomputation.NONE)
        return kept

    def stage_activation_bytes(self, load: TrainingLoad) -> Number:
        """Bytes of one micro-batch over the fullest stage's layers."""
        groups = self.model.layer_groups
        return sum(
            (count * self.mean_layer_bytes(groups[index], load) for index, count in self.stage_layers()), 0.0
        )

    def in_flight(self, load: TrainingLoad, stage: int = 0) -> Number:
        """Micro-batches whose activations a stage holds at once: one fewer with each stage (arXiv 2205.05198, 4.2.3)."""
        pp, chunks = self.p.pp_size, self.plan.virtual_stages
        most = pp - stage + (pp * (pp - 1) / (pp * chunks) if chunks > 1 else 0)
        return minimum(load.accumulation, most) if pp > 1 else 1.0

    def working_bytes(self, load: TrainingLoad) -> Number:
        """The layer whose backward pass runs: what is recomputed of it, and gradients of its activations."""
        most: Number = 0.0
        c, wide = self.constants, self.plan.wide_bytes
        for group in self.model.layer_groups:
            whole = self.layer_bytes(group, load, ActivationRecomputation.NONE)
            again = whole - self.layer_bytes(group, load) if recomputing_share(self.scenario) else 0.0
            widths = activation_widths(self.model, group, self.p.tp_size)
            per_token = c["backward_ffn_vectors"] * widths.ffn
            per_token += c["backward_hidden_vectors"] * widths.hidden / self.p.sp_size
            most = maximum(most, maximum(again, 0.0) + self._tokens(load) * per_token * wide)
        return most

    def logit_bytes(self, load: TrainingLoad) -> Number:
        """Logits, loss and their gradient at their fullest moment on the last stage."""
        return self.loss.live(self._tokens(load)).peak

    def _tokens(self, load: TrainingLoad) -> Number:
        return load.micro_batch * load.seq_len / self.p.cp_size

    # -- terms of a GPU ------------------------------------------------------------------------------------------

    def gpu_terms(self, load: TrainingLoad, stage: Stage) -> list[MemoryTerm]:
        """All that one GPU of a pipeline stage holds, with the phases in which it does."""
        params = self.params_of(stage)
        found = [*self._state_terms(params, load), *self._activation_terms(load, stage)]
        found += [*self._gathered_terms(params), *self._temporary_terms(params), *self._fixed_terms()]
        return [term for term in found if any_of(term.size_bytes)]

    def _state_terms(self, params: StageParams, load: TrainingLoad) -> Iterator[MemoryTerm]:
        plan = self.plan
        trained = self.trained_of(params)
        if plan.weights_device == "gpu":
            name = f"weights, {self.base_element_bytes:.3g} bytes each"
            yield MemoryTerm(name, "weights_bytes", self.weight_bytes_of(params), ALWAYS, _ZERO)
        if plan.lora_rank and plan.weights_device == "gpu":
            adapters = self.adapter_bytes_of(params)
            yield MemoryTerm("adapters", "weights_bytes", adapters, ALWAYS, "arXiv 2106.09685")
        loaded = self.constants["load_copies"] * params.held.total * plan.wide_bytes
        yield MemoryTerm("whole weights while loading", "buffers_bytes", loaded, frozenset({LOAD}))
        if plan.gpu_update_share:
            own = plan.gpu_update_share * self.sharded(trained, "optimizer")
            master = own * self.master_element_bytes
            yield MemoryTerm("master weights", "optimizer_bytes", master, TRAINING, _ZERO)
            if not self.optimizer.paged:
                state = own * self.moment_element_bytes
                name = f"state of {plan.optimizer}"
                yield MemoryTerm(name, "optimizer_bytes", state, TRAINING, self.optimizer.source)
        yield from self._gradient_terms(params, load)

    def _gradient_terms(self, params: StageParams, load: TrainingLoad) -> Iterator[MemoryTerm]:
        plan, trained, element = self.plan, self.trained_of(params), self.gradient_element_bytes
        if self._gradients_leave and not plan.optimizer_in_backward:
            return
        size = self.sharded(trained, "gradients") * element
        # The head's gradient comes first: chunk by chunk while others' logits still exist, else when they are gone.
        split = self.loss.kind in ("chunked", "fused")
        first = min(self._head_params(params), trained.total) * element
        at_first = frozenset({FORWARD, BACKWARD} if split else {BACKWARD})
        if plan.optimizer_in_backward:
            # A tied table's gradient waits for the embedding's; what comes first is the head's either way.
            tied = first if self.model.tied_embeddings else 0.0
            largest = min(self._largest_tensor(params) * element + tied, trained.total * element)
            name = "gradient of the matrix that is updated"
            yield MemoryTerm(name, "gradients_bytes", largest, frozenset({BACKWARD_END}))
            yield MemoryTerm(name, "gradients_bytes", first, at_first)
            return
        name = f"gradients, {element:.3g} bytes each"
        yield MemoryTerm(name, "gradients_bytes", size, frozenset({BACKWARD_END, STEP}), _ZERO)
        if self.constants["persistent_gradients" if plan.ds_zero.value else "persistent_gradients_stage0"]:
            yield MemoryTerm(name, "gradients_bytes", size, frozenset({FORWARD, BACKWARD}), _ZERO)
            return
        # Dropped after each step, so that only micro-batches after the first one begin with them.
        more = load.accumulation > 1
        name = "gradients of earlier micro-batches, or of the head"
        alone = 0.0 if plan.lora_rank or self.gathers else first
        for phase in (FORWARD, BACKWARD):
            begun = where(more, size, alone if phase in at_first else 0.0)
            yield MemoryTerm(name, "gradients_bytes", begun, frozenset({phase}), _ZERO)

    def _head_params(self, params: StageParams) -> float:
        """Parameters of the head; of tied ones those of the table."""
        if params.ends.total and self.p.pp_size == 1 and not self.model.tied_embeddings:
            return params.ends.total / 2
        return params.ends.total

    def _largest_tensor(self, params: StageParams) -> float:
        """Elements of the largest trained tensor: a matrix of a layer, or a table of the vocabulary."""
        return max(self.largest_matrix, self._head_params(params))

    def _one_update_bytes(self, params: StageParams) -> float:
        """What an update of one tensor at a time, with moments of 8 or 4 bits, computes in 32 bits of the largest one."""
        if self.optimizer.name not in _NARROW_MOMENTS:
            return 0.0
        return self.constants["narrow_update_bytes"] * self._largest_tensor(params)

    @property
    def _gradients_leave(self) -> bool:
        """Whether gradients leave the GPU as they are reduced, as under ZeRO-Offload's stages 2 and 3.

        Stage 1 adds up whole ones on the GPU and copies its shard when the step ends.
        """
        return self.plan.optimizer_device != "gpu" and self.plan.ds_zero >= DSZeRO.STAGE_2

    def _activation_terms(self, load: TrainingLoad, stage: Stage) -> Iterator[MemoryTerm]:
        groups = self.model.layer_groups
        one = sum((count * self.mean_layer_bytes(groups[index], load) for index, count in stage.layers), 0.0)
        kept = one * self.in_flight(load, stage.index)
        passes = frozenset({FORWARD, BACKWARD})
        if self.plan.activations_device == "gpu":
            yield MemoryTerm("activations kept", "activations_bytes", kept, passes, _KEPT)
        else:
            staged = 2 * self.layer_bytes(groups[0], load)
            yield MemoryTerm("activations on their way to the host", "buffers_bytes", staged, PASSES)
        name = "the layer whose backward pass runs: recomputed, and gradients of activations"
        both = frozenset({BACKWARD, BACKWARD_END})
        working = self.working_bytes(load)
        yield MemoryTerm(name, "temporaries_bytes", working, frozenset({BACKWARD}))
        # An update inside the backward pass has its largest tensor, a table, once the layers are done.
        updated = self._one_update_bytes(self.params_of(stage)) if self.plan.optimizer_in_backward else 0.0
        name += "; or the largest tensor's update in 32 bits" if updated else ""
        yield MemoryTerm(name, "temporaries_bytes", maximum(working, updated), frozenset({BACKWARD_END}))
        if stage.last:
            loss = self.loss.live(self._tokens(load))
            name = f"logits and loss ({self.loss.kind})"
            yield MemoryTerm(name, "logits_bytes", loss.peak, frozenset({FORWARD}))
            yield MemoryTerm("logits that are still held", "logits_bytes", loss.retained, both)

    def _gathered_terms(self, params: StageParams) -> Iterator[MemoryTerm]:
        """Layers and ends that ZeRO-3 has gathered, in their stored format, and whole gradients before their reduction."""
        c, plan = self.constants, self.plan
        if self.quantised:
            matrix = self.largest_matrix * plan.wide_bytes * c["unpacked_matrices"]
            both = frozenset(
                {BACKWARD, BACKWARD_END}
            )  # the head, which ends the forward pass, is not quantised
            yield MemoryTerm("matrix unpacked to the format of products", "buffers_bytes", matrix, both)
        if not (self.gathers or self.copies_own):
            return
        element = min(self.base_element_bytes, plan.wide_bytes)
        layer = max(held.total for held in self.layers) * element
        stage = params.layers.total * element
        gathered = min(max(c["gathered_layers"] * layer, c["gathered_params"] * element), stage)
        both = frozenset({BACKWARD, BACKWARD_END})  # once the forward pass is done its layers are released
        yield MemoryTerm("layers gathered", "buffers_bytes", gathered, both)
        ends = c["gathered_ends"] * params.ends.total * plan.wide_bytes
        yield MemoryTerm("embedding and head gathered", "buffers_bytes", ends, PASSES)
        if plan.lora_rank:
            return
        reduced = c["unsharded_gradient_layers"] * max(held.total for held in self.layers) * c["reduce_bytes"]
        yield MemoryTerm("gradients of a layer before their reduction", "buffers_bytes", reduced, both)
        whole = c["gathered_ends"] * params.ends.total * c["reduce_bytes"]
        yield MemoryTerm("gradients of embedding and head before it", "buffers_bytes", whole, both)

    def _temporary_terms(self, params: StageParams) -> Iterator[MemoryTerm]:
        """What an optimizer step makes for a moment, and what its gradient's norm does, whichever is more."""
        c, plan = self.constants, self.plan
        buckets = self._bucket_params * plan.wide_bytes
        if plan.ds_zero.value:
            held = TRAINING if c["persistent_buckets"] else frozenset({BACKWARD, BACKWARD_END})
            yield MemoryTerm("buckets of reduction and gathering", "buffers_bytes", buckets, held)
        else:
            whole = min(c["whole_bucket_params"], self.trained_of(params).total) * self.gradient_element_bytes
            name = "gradients copied together for their reduction"
            yield MemoryTerm(name, "buffers_bytes", whole, frozenset({BACKWARD_END}))
        if plan.optimizer_in_backward or plan.optimizer_device != "gpu":
            return
        own = self.sharded(self.trained_of(params), "optimizer")
        group = c["step_group_params"] if plan.ds_zero is DSZeRO.STAGE_3 else 0.0
        element = c[
            "step_temporary_bytes_stage3" if plan.ds_zero is DSZeRO.STAGE_3 else "step_temporary_bytes"
        ]
        if plan.wide_bytes == 4:
            # 32-bit gradients are flattened and not widened; without ZeRO they stay where they are.
            element = min(element, 4.0) if plan.ds_zero.value else 0.0
        step = min(own, group or own) * element
        step += own * c["step_temporary_moments"] * self.moment_element_bytes
        step += min(self._one_update_bytes(params), own * c["narrow_update_bytes"])
        yield MemoryTerm("temporaries of the optimizer's step", "temporaries_bytes", step, frozenset({STEP}))

    @property
    def _bucket_params(self) -> float:
        own = self.plan.reduce_bucket_size
        return self.constants["bucket_params"] if own is None else own * self.constants["buckets"]

    def _fixed_terms(self) -> Iterator[MemoryTerm]:
        c = self.constants
        sizes = (self.p.tp_size, self.p.pp_size, self.p.dp_size, self.p.ep_size, self.p.cp_size)
        communicators = sum(size > 1 for size in sizes) * c["communicator_gib"] * _GIB
        yield MemoryTerm("communicators", "reserved_bytes", communicators, ALWAYS)
        context = c["process_reserve_gib"] * _GIB
        yield MemoryTerm("context and libraries", "reserved_bytes", context, ALWAYS)

    # -- host and disks ----------------------------------------------------------------------------------------------

    def host_terms(self, params: StageParams, load: TrainingLoad, stage: Stage) -> list[MemoryTerm]:
        """What all ranks of a node hold on their host."""
        plan, c, ranks = self.plan, self.constants, self.scenario.gpus_per_node
        own = self.sharded(self.trained_of(params), "optimizer")
        found = []
        if plan.weights_device == "cpu":
            size = self._pinned(self.weight_bytes_of(params) + self.adapter_bytes_if_any(params))
            found.append(MemoryTerm("weights", "weights_bytes", size, ALWAYS, _ZERO))
        if plan.optimizer_device == "cpu":
            if plan.offload_overlap == "superoffload":
                own *= plan.superoffload_ratio
            master = self._pinned(own * self.master_element_bytes)
            found.append(MemoryTerm("master weights", "optimizer_bytes", master, TRAINING, _ZERO))
            state = own * self.moment_element_bytes
            name = f"state of {plan.optimizer}"
            found.append(MemoryTerm(name, "optimizer_bytes", state, TRAINING, self.optimizer.source))
        elif self.optimizer.paged:
            state = own * self.moment_element_bytes
            found.append(MemoryTerm("paged state", "optimizer_bytes", state, TRAINING, self.optimizer.source))
        if self._gradients_leave and not plan.optimizer_in_backward:
            element = c["host_gradient_bytes"] or self.gradient_element_bytes
            size = self._pinned(self.sharded(self.trained_of(params), "gradients") * element)
            # ZenFlow adds the next steps' up while the CPU works on the last ones'.
            size *= 2 if plan.offload_overlap == "zenflow" else 1
            found.append(MemoryTerm("gradients", "gradients_bytes", size, TRAINING, _ZERO))
        if plan.activations_device == "cpu":
            groups = self.model.layer_groups
            one = sum((n * self.mean_layer_bytes(groups[index], load) for index, n in stage.layers), 0.0)
            kept = one * self.in_flight(load, stage.index)
            found.append(MemoryTerm("activations kept", "activations_bytes", kept, PASSES, _KEPT))
        if plan.optimizer_device == "nvme" or plan.weights_device == "nvme":
            buffers = c["nvme_buffer_gib"] * _GIB
            found.append(MemoryTerm("pinned buffers to NVMe", "buffers_bytes", buffers, ALWAYS))
        return [
            MemoryTerm(term.name, term.part, term.size_bytes * ranks, term.phases, term.source)
            for term in found
        ]

    def adapter_bytes_if_any(self, params: StageParams) -> float:
        """Bytes of one rank's adapters; none where the weights are trained."""
        return self.adapter_bytes_of(params) if self.plan.lora_rank else 0.0

    def _pinned(self, size_bytes: float) -> float:
        """Pinned buffers, which the caching host allocator rounds up to a power of two each."""
        piece = self.constants["pinned_piece_bytes"]
        if not piece or size_bytes <= 0:
            return size_bytes
        whole, rest = divmod(size_bytes, piece)
        rounded = 2.0 ** math.ceil(math.log2(piece))
        return whole * rounded + (2.0 ** math.ceil(math.log2(rest)) if rest >= 1 else 0.0)

    def _disk(self, params: StageParams) -> TrainingMemoryParts:
        plan, disk, ranks = self.plan, self.scenario.host.disk, self.scenario.gpus_per_node
        weights = self.weight_bytes_of(params) + self.adapter_bytes_if_any(params)
        state = self.sharded(self.trained_of(params), "optimizer") * self.optimizer_element_bytes
        return TrainingMemoryParts(
            weights_bytes=ranks * weights if plan.weights_device == "nvme" else 0.0,
            optimizer_bytes=ranks * state if plan.optimizer_device == "nvme" else 0.0,
            capacity_bytes=0.0 if disk is None else disk.capacity_bytes,
        )

    # -- all together ------------------------------------------------------------------------------------------------

    def memory(self, load: TrainingLoad) -> TrainingMemory:
        """Memory of the fullest GPU, and of a host and its disks where something is kept there."""
        share = self.constants["fragmentation_share"], self.constants["fragmentation_least"]
        stages = self.stages
        moments = [
            moment
            for stage in stages
            for moment in moments_of(
                self.gpu_terms(load, stage), stage.index, self.scenario.gpu.usable_memory_bytes, share
            )
        ]
        capacity = self.scenario.host.usable_memory_bytes
        if not self._leaves_gpu:
            empty = TrainingMemoryParts(capacity_bytes=capacity)
            disk = self._disk(self.params_of(stages[0]))
            return TrainingMemory(fullest(moments), empty, disk, tuple(moments))
        host = [
            moment
            for stage in stages
            for moment in moments_of(
                self.host_terms(self.params_of(stage), load, stage), stage.index, capacity
            )
        ]
        disk = max(
            (self._disk(self.params_of(stage)) for stage in stages), key=lambda parts: parts.total_bytes
        )
        return TrainingMemory(fullest(moments), fullest(host), disk, tuple(moments), tuple(host))

    @property
    def _leaves_gpu(self) -> bool:
        plan = self.plan
        devices = (plan.weights_device, plan.optimizer_device, plan.activations_device)
        return self.optimizer.paged or any(device != "gpu" for device in devices)

    def quantities(self, load: TrainingLoad) -> Iterator[Quantity]:
        """State and activations of one GPU with what they follow from; for a single configuration."""
        plan = self.plan
        stage = self.memory(load).binding.stage
        params = self.params_of(next(one for one in self.stages if one.index == stage))
        trained = self.trained_of(params)
        if not plan.lora_rank:
            kept = Factor(
                "parameters of the fullest stage that it keeps", self.sharded(params.held, "weights")
            )
            yield Quantity(
                "weights of one GPU", ((kept, Factor("bytes", self.weight_element_bytes)),), "bytes"
            )
        reduced = Factor(
            f"parameters that it reduces under ZeRO {plan.ds_zero.value}", self.sharded(trained, "gradients")
        )
        size = Factor("bytes", self.gradient_element_bytes)
        yield Quantity("gradients of one GPU", ((reduced, size),), "bytes", _ZERO)
        updated = Factor("parameters that it updates", self.sharded(trained, "optimizer"))
        state = Factor(f"bytes of master weights and state of {plan.optimizer}", self.optimizer_element_bytes)
        yield Quantity("optimizer state of one GPU", ((updated, state),), "bytes", self.optimizer.source)
        one = Factor("bytes of one micro-batch over the fullest stage", self.stage_activation_bytes(load))
        flight = Factor("micro-batches in flight on the first one", self.in_flight(load))
        yield Quantity("activations of one GPU", ((one, flight),), "bytes", _KEPT)


def recomputing_share(scenario: TrainingScenario) -> float:
    """Share of the layers that recompute."""
    plan = scenario.plan
    if plan.activation_recomputation is ActivationRecomputation.NONE and not plan.recompute_modules:
        return 0.0
    return 1.0 if plan.recompute_layers is None else plan.recompute_layers / scenario.model.num_layers


def is_mixture(group: LayerGroup) -> bool:
    """Whether a layer has routed experts."""
    return group.mlp.routed_experts > 0
