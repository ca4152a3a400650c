"""ZeRO-Offload and ZeRO-Infinity: training state in host memory or on NVMe, on the streams that ZeRO-Inference uses."""

from __future__ import annotations

from llm_perf.config.model import LayerGroup
from llm_perf.config.training import TrainingScenario
from llm_perf.counts.arrays import Number, maximum
from llm_perf.errors import SpecError
from llm_perf.hardware.streams import (
    CPU,
    D2H,
    DISK_READ,
    DISK_WRITE,
    H2D,
)
from llm_perf.hardware.transfer import Path, copy_path, disk_read_path, disk_write_path
from llm_perf.systems.base import PhaseCost
from llm_perf.systems.constants import host_under, load_constants
from llm_perf.systems.schedule import Block, Schedule, Step, Work, sum_costs
from llm_perf.systems.training.base import TrainingLoad
from llm_perf.systems.training.memory import Footprint

_COPY_SOURCE = "pinned copies, as for ZeRO-Inference"
_SYSTEM = "zero_inference"  # a host's measured copy rates of DeepSpeed's pinned buffers


class Offload:
    """What leaves the GPU, and the copies that follow. Every rank moves its own shard over its own link."""

    def __init__(self, scenario: TrainingScenario, constants: dict[str, float], footprint: Footprint) -> None:
        self.scenario, self.c, self.footprint = scenario, constants, footprint
        self.plan = scenario.plan
        self.optimizer_off = self.plan.optimizer_device != "gpu"
        self.weights_off = self.plan.weights_device != "gpu"
        self.activations_off = self.plan.activations_device != "gpu"

    # -- paths -------------------------------------------------------------------------------------------------

    def _copy(self, stream: str) -> Path:
        gpu, gpus = self.scenario.gpu, self.scenario.gpus_per_node
        host = host_under(self.scenario.host, load_constants(_SYSTEM), _SYSTEM, self.scenario.fits)
        name = "pinned_h2d" if stream == H2D else "pinned_d2h"
        return copy_path(
            stream, gpu, host, _SYSTEM, name, self.c["copy_ratio"], _COPY_SOURCE, gpus_per_node=gpus
        )

    def _disk(self, stream: str) -> Path:
        path = disk_read_path if stream == DISK_READ else disk_write_path
        return path(self.scenario.host, "direct", self.scenario.gpus_per_node)

    def _work(self, stream: str, size_bytes: Number) -> Work:
        path = self._copy(stream) if stream in (H2D, D2H) else self._disk(stream)
        return Work(stream, "offload", path.seconds(size_bytes))

    # -- a layer -------------------------------------------------------------------------------------------------

    def forward(self, index: int, group: LayerGroup, load: TrainingLoad) -> dict[str, list[Work]]:
        """Copies beside one layer's forward pass: its shard of weights in, what the backward pass needs out."""
        found = self._weights(index)
        if self.activations_off:
            found["out"] = [self._work(D2H, self._kept(group, load))]
        return found

    def backward(self, index: int, group: LayerGroup, load: TrainingLoad) -> dict[str, list[Work]]:
        """Copies beside one layer's backward pass: weights and activations in, the shard of gradients out."""
        found = self._weights(index)
        if self.activations_off:
            found.setdefault("in", []).append(self._work(H2D, self._kept(group, load)))
        if self.optimizer_off:
            held = self.footprint.layers[index]
            if self.plan.lora_rank:
                held = held * (self.footprint.adapters(index) / held.total)
            # Stage 1 accumulates on the GPU; stages 2 and 3 pass on each micro-batch's gradients.
            copies = 1.0 if self.plan.ds_zero.value >= 2 else 1.0 / load.accumulation
            size = self.footprint.sharded(held, "optimizer") * self.plan.wide_bytes
            found["out"] = [self._work(D2H, copies * size)]
        return found

    def _weights(self, index: int) -> dict[str, list[Work]]:
        if not self.weights_off:
            return {}
        element = min(self.footprint.base_element_bytes, self.plan.wide_bytes)
        size = self.footprint.sharded(self.footprint.layers[index], "weights") * element
        found = {"in": [self._work(H2D, size)]}
        if self.plan.weights_device == "nvme":
            found["disk"] = [self._work(DISK_READ, size)]
        return found

    def _kept(self, group: LayerGroup, load: TrainingLoad) -> Number:
        return self.footprint.mean_layer_bytes(group, load)

    # -- the optimizer ---------------------------------------------------------------------------------------------

    def optimizer_cost(self, on_gpu_s: float, passes_s: Number, last_backward_s: Number) -> PhaseCost:
        """The update: on the GPU, on the CPU, or on both at once.

        Args:
            on_gpu_s: the GPU's update of all that a rank owns.
            passes_s: all passes of a step, beside which ZenFlow's CPU works.
            last_backward_s: the last backward pass, beside which SuperOffload's does.
        """
        share, way = self.plan.gpu_update_share, self.plan.offload_overlap
        step = Step("optimizer", {"gpu": (Work("compute", "optimizer", share * on_gpu_s),)})
        on_gpu = Schedule((Block((step,)),)).cost()
        if not self.optimizer_off:
            return on_gpu
        left = 1.0 - share
        if way == "none":
            return self._on_cpu(left)
        every = self.plan.zenflow_update_interval if way == "zenflow" else 1
        whole = sum_costs([(self._on_cpu(left), 1.0 / every)])
        # The first layers' gradients come last, so that an update beside the backward pass ends behind it.
        least = whole.latency_s / self.scenario.model.num_layers if way == "superoffload" else 0.0
        hiding = passes_s if way == "zenflow" else last_backward_s
        waited = maximum(whole.latency_s - hiding, least)
        exposed = PhaseCost(waited, {"optimizer": waited}, whole.busy_s)
        return sum_costs([(exposed, 1.0), (on_gpu, 1.0)]) if share else exposed

    def _on_cpu(self, share: float) -> PhaseCost:
        """The update of a share on the CPU, with the new weights copied as they come and state on NVMe read ahead."""
        footprint, plan = self.footprint, self.plan
        own = share * footprint.sharded(footprint.trained, "optimizer")
        lanes = {"cpu": (Work(CPU, "optimizer", self._cpu_update_s(own)),)}
        back = own * plan.wide_bytes
        if not self.weights_off:
            lanes["copies"] = (self._work(H2D, back),)
        if plan.optimizer_device == "nvme":
            state = own * footprint.optimizer_element_bytes
            lanes["read"] = (self._work(DISK_READ, state),)
            lanes["write"] = (
                self._work(DISK_WRITE, state + (back if plan.weights_device == "nvme" else 0.0)),
            )
        step = Step("optimizer", lanes)
        return Schedule((Block((step,)),)).cost()

    def _cpu_update_s(self, params: float) -> float:
        """Seconds of DeepSpeed's CPU Adam: host memory traffic, shared by the ranks of a node.

        Raises:
            SpecError: the host states no memory bandwidth.
        """
        host = self.scenario.host
        per_socket = host.memory_bandwidth_gb_per_s_per_socket
        if per_socket is None:
            raise SpecError(
                f"host {host.name} states no memory bandwidth, so an optimizer on its CPU cannot be priced"
            )
        rate = per_socket * 1e9 * host.sockets * self.c["cpu_adam_bandwidth"] / self.scenario.gpus_per_node
        footprint = self.footprint
        moved = (
            footprint.gradient_element_bytes + 2 * footprint.optimizer_element_bytes + self.plan.wide_bytes
        )
        return params * moved / rate
