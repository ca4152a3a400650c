"""Products of one rank: by which kernel each runs, what it reads, and how long it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llm_perf.config.formats import MatrixFormat
from llm_perf.config.model import LayerGroup, ModelConfig
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum, minimum, where
from llm_perf.counts.parameters import expert_tensor_shards, token_table_params
from llm_perf.counts.products import Product, lm_head_products
from llm_perf.counts.routing import Routing
from llm_perf.hardware.gpu_time import GemmRates, KernelRates, KernelStyle, kernel_rates
from llm_perf.systems.costs import Costs, part_of
from llm_perf.systems.format_kernels import (
    BLOCK_SCALED,
    BY_8BIT,
    QUANTISED,
    WEIGHT_ONLY,
    Kind,
    compute_factor,
    integer_rates,
    read_factor,
    tile_reads,
    unpacked_share,
    walk_s,
)
from llm_perf.systems.padded_experts import empty_blocks, loaded_bytes, marlin_block, pads_experts
from llm_perf.systems.products import ProductTime, product_time
from llm_perf.systems.terms import Factor, one_term
from llm_perf.systems.tiled_products import whole_tiles_s

_NATIVE_KINDS: dict[int, Kind] = {4: "native 4-bit", 8: "native 8-bit", 16: "16-bit", 32: "16-bit"}
_LEAST_8BIT = 7.0
"""Stored bits from which a format's kernels are those of 8-bit weights: types of 6.56 bits unpack like those of 4."""


class ProductKernels:
    """Matrix products of a scenario on one rank under a stack's constants.

    Attributes:
        groups: The layers that run here, with the products of each; whoever builds a pass of them says which.
        head: Products of the head.
    """

    groups: tuple[tuple[LayerGroup, tuple[Product, ...]], ...]

    def __init__(self, scenario: Scenario, constants: dict[str, float]) -> None:
        self.scenario = scenario
        self.constants = constants
        self.model: ModelConfig = scenario.model
        parallelism = scenario.parallelism
        self.tp, self.ep, self.pp, self.dp = (
            parallelism.tp_size,
            parallelism.ep_size,
            parallelism.pp_size,
            parallelism.dp_size,
        )
        self.sp, self.cp = parallelism.sp_size, parallelism.cp_size
        # Experts see the tokens of so many replicas; spread over tensor ranks as well, each takes a part of these.
        self.expert_batches = min(self.ep, self.dp)
        self.expert_share = self.expert_batches / self.ep * parallelism.expert_imbalance
        self._load_variation = constants["expert_load_variation"]
        self.activation_bytes = scenario.dtype.activation_bits / 8
        scale = scenario.host.host_time_scale if constants["host_scaled"] else None
        self.host_time_scale = 1.0 if scale is None else scale.value
        self.rates: KernelRates = kernel_rates(
            scenario.gpu,
            scenario.dtype.compute_bits,
            scenario.flops_efficiency,
            scenario.hbm_memory_efficiency,
            KernelStyle.of(constants, self._weight_only),
        )
        self._table_rates = scenario.flops_efficiency is None
        self._floor_share = constants["floor_scale"] * constants["graph_floor_scale"]
        self.floor_s = self.rates.gemm.floor_s * self._floor_share
        self._gemms = {"": self.rates.gemm} | self._gemms_of_formats()
        self.head = lm_head_products(self.model, self.tp, self._head_format)
        self._sm_ghz = (scenario.gpu.sm_count or 0) * (scenario.gpu.sm_clock_mhz or 0.0) / 1000

    # -- kernels by number formats ----------------------------------------------------------------------------

    @property
    def _weight_only(self) -> bool:
        """Weights are narrower than activations: products run at the activations' width."""
        return self.scenario.dtype.weight_bits < self.scenario.dtype.activation_bits

    @property
    def _format_rows(self) -> tuple[tuple[MatrixFormat, ...] | None, ...]:
        formats = self.scenario.dtype.formats
        return (None,) * len(self.model.layer_groups) if formats is None else formats.layers

    @property
    def _head_format(self) -> MatrixFormat | None:
        formats = self.scenario.dtype.formats
        if formats is None:
            return None
        return formats.embedding if self.model.tied_embeddings else formats.head

    def _gemms_of_formats(self) -> dict[str, GemmRates]:
        """Rates of products by kernels, where matrices have formats of their own.

        Wide matrices run the stack's plain 16-bit kernels, FP8 and INT8 ones on their own units where the GPU has these.
        """
        if self.scenario.dtype.formats is None:
            return {}
        scenario, found = self.scenario, {}
        style = KernelStyle.of(self.constants, quantised=False)
        integers = self.constants["integer_gflops_per_sm_per_ghz"] > 0
        for kernels, dtype in (("16-bit", None), ("fp8", "fp8"), ("int8", "int8"), ("fp4", "fp4")):
            if dtype is None or (dtype in scenario.gpu.peak_tflops and not integers):
                found[kernels] = kernel_rates(
                    scenario.gpu,
                    scenario.dtype.compute_bits,
                    scenario.flops_efficiency,
                    scenario.hbm_memory_efficiency,
                    style,
                    dtype,
                ).gemm
        return found

    def _gemm(self, product: Product, tokens: Number | None = None) -> GemmRates:
        """Rates of a product's kernel; those of experts may depend on the tokens of the pass."""
        if self._by_8bit(product):
            return self._gemms["fp8"]
        if self._mxfp4_by_marlin(product):
            return self.rates.gemm if tokens is None else self._in_blocks(product, self.rates.gemm, tokens)
        gemm = self._gemms.get("" if product.stored is None else product.stored.kernels, self.rates.gemm)
        if self._converted(product):
            return self._gemms["16-bit"]
        if not self._table_rates or not self._narrow(product):
            return gemm
        if product.stored is None:
            return gemm if tokens is None else self._in_blocks(product, gemm, tokens)
        widest = None
        if product.is_expert and tokens is not None:
            mean = self.constants["integer_expert_tile_of_mean"]
            rows = product.rows(tokens) / maximum(product.touched(tokens), 1.0)
            widest = maximum(mean * rows, self.rates.gemm.tile_rows) if mean > 0 else tokens
        gemm = integer_rates(self.constants, gemm, self._sm_ghz, product.stored.name, widest)
        return gemm if tokens is None else self._in_blocks(product, gemm, tokens)

    def _in_blocks(self, product: Product, gemm: GemmRates, tokens: Number) -> GemmRates:
        """Rates where each expert's rows fill blocks up, by Marlin's kernels."""
        if not self._by_marlin(product):
            return gemm
        rows_each = product.rows(tokens) * self.expert_share / max(product.copies, 1)
        return replace(gemm, tile_rows=marlin_block(rows_each), ragged=True)

    def _by_marlin(self, product: Product) -> bool:
        """Whether experts are unpacked by Marlin's kernel, mxfp4 where no kernel of its own is made for the GPU."""
        if not product.is_expert or not self.constants["marlin_expert_blocks"]:
            return False
        mxfp4 = product.stored is not None and product.stored.name == "mxfp4"
        return self._mxfp4_by_marlin(product) if mxfp4 else self._narrow(product)

    def _mxfp4_by_marlin(self, product: Product) -> bool:
        """Whether experts in mxfp4 have neither triton_kernels, which are Hopper's, nor kernels for a tensor memory.

        Source: vLLM's choice for mxfp4 (``get_mxfp4_backend``, quantization/mxfp4.py), SGLang's ``moe_runner_backend``.
        """
        stored, gpu = product.stored, self.scenario.gpu
        if stored is None or stored.name != "mxfp4" or not product.is_expert:
            return False
        own = gpu.has_tensor_memory or gpu.architecture == "hopper" or gpu.maker != "nvidia"
        return not own and bool(self.constants["marlin_expert_blocks"])

    def _by_8bit(self, product: Product) -> bool:
        """Whether 4-bit weights are multiplied by 8-bit activations: experts in mxfp4, by the engines of NVIDIA's GPUs."""
        stored = product.stored
        if (
            stored is None
            or stored.name != "mxfp4"
            or not product.is_expert
            or self._mxfp4_by_marlin(product)
        ):
            return False
        return "fp4" in self._gemms and "fp8" in self._gemms and self.scenario.gpu.maker == "nvidia"

    def _narrow(self, product: Product) -> bool:
        """Whether the weights of a product are unpacked to run at the activations' width."""
        if product.stored is None:
            return self._weight_only
        if self._mxfp4_by_marlin(product):
            return True
        return product.stored.kernels not in self._gemms and not self._converted(product)

    @staticmethod
    def _converted(product: Product) -> bool:
        """Whether an elementwise kernel makes a 16-bit copy of the weights before every product."""
        return product.stored is not None and product.stored.kernels == "converted"

    def _unpacks(self, product: Product, rows: Number) -> Number:
        """Whether weights are unpacked by a kernel of its own, and the product reads the unpacked copy.

        Some stacks do so from ``unpack_min_rows`` rows on, and unpack in the registers of the product below.
        """
        if self._converted(product):
            return True
        if not self._narrow(product) or self.constants["unpack_bytes_per_weight"] <= 0:
            return False
        if part_of(product.op) == "lm_head" or product.op == "router":
            return False
        return rows >= self.constants["unpack_min_rows"]

    def weight_bytes_per_element(self, product: Product, rows: Number) -> Number:
        """Bytes of one weight that a product of so many rows reads; the head is the embedding table and has its width."""
        stored, kind = self._stored_bytes(product), self._kernel_kind(product)
        if product.stored is None and part_of(product.op) == "lm_head" and self._unpacks_tables:
            return self.activation_bytes
        if kind not in WEIGHT_ONLY:
            return self.activation_bytes if self._converted(product) else stored
        name = "" if product.stored is None else product.stored.name
        gemm = self._gemm(product)
        share = unpacked_share(self.constants, kind, product.is_expert, gemm, self._sm_ghz, name)
        return where(self._unpacks(product, rows), self.activation_bytes, stored / share)

    def _stored_bytes(self, product: Product) -> float:
        """Bytes that one weight takes in memory, which a product reads at least."""
        dtype, stored = self.scenario.dtype, product.stored
        if stored is not None:
            return stored.bits / 8
        if part_of(product.op) == "lm_head":
            return dtype.stored_embedding_bits / 8
        return self.activation_bytes if product.op == "router" else dtype.stored_weight_bits / 8

    def experts(self, costs: Costs, tokens: Number) -> None:
        """Products of routed experts alone, of all layers: what a step of replicas that share them spreads over all."""
        for group, products in self.groups:
            routed = tuple(product for product in products if product.is_expert)
            self._products(costs, routed, tokens, group.count)

    def _products(
        self,
        costs: Costs,
        products: tuple[Product, ...],
        tokens: Number,
        layers: int,
        routed: Number | None = None,
    ) -> None:
        """Products of so many layers on ``tokens`` tokens, of which ``routed`` differ: they decide which experts are read."""
        routed = tokens if routed is None else routed
        for product in products:
            costs.product(product.op, layers, self.product_s(product, tokens, routed))
            self._unpack(costs, product, tokens, layers, routed)
            self._empty_blocks(costs, product, tokens, layers, routed)

    def product_s(self, product: Product, tokens: Number, routed: Number | None = None) -> ProductTime:
        """One product on so many tokens, of which ``routed`` differ (all if None): they decide which experts are read."""
        gemm, kind = self._gemm(product, tokens), self._kernel_kind(product)
        rows = product.rows(tokens)
        copies = self.touched(product, tokens if routed is None else routed)
        if product.is_expert:
            busiest = self._busiest(product.active, product.all_copies, tokens if routed is None else routed)
            rows = rows * self.expert_share * busiest
        # However good its kernels, no product reads what is stored faster than the data sheet's memory.
        least = self._stored_bytes(product) * gemm.bytes_per_s / gemm.peak_bytes_per_s
        matrix = product.weights * self._stored_bytes(product)
        uncached = max(1.0 - self.rates.l2_bytes / matrix, 0.0) if matrix else 0.0

        def bytes_per_weight(rows: Number) -> Number:
            reads = read_factor(self.constants, kind, gemm, product.is_expert, rows, copies)
            reads = reads * (
                tile_reads(self.constants, rows, copies, uncached) if kind in WEIGHT_ONLY else 1.0
            )
            return maximum(self.weight_bytes_per_element(product, rows) * reads, least)

        most = gemm.matvec_max_rows
        return product_time(
            gemm,
            product,
            rows,
            copies,
            bytes_per_weight(rows),
            self.activation_bytes,
            gemm.floor_s * self._floor_share + self._scales_s(product, kind),
            compute_factor(
                self.constants,
                kind,
                gemm,
                self.scenario.gpu if self._table_rates else None,
                product.is_expert and self._table_rates,
                self._by_marlin(product) and self.constants["marlin_gflops_per_sm_per_ghz"] > 0,
            ),
            bytes_per_weight(minimum(rows, most)) if most else None,
            walk_s(self.constants, kind, product.in_features),
            self._whole_tiles_s(product, kind, gemm, rows),
        )

    def _whole_tiles_s(self, product: Product, kind: Kind, gemm: GemmRates, rows: Number) -> Number:
        """Least arithmetic of a product whose tiles are not divided; stated rates are those of every kernel."""
        if kind != "native 4-bit" or not self._table_rates:
            return 0.0
        return whole_tiles_s(self.constants, gemm, self.scenario.gpu, product, rows)

    def touched(self, product: Product, tokens: Number) -> Number:
        """Copies of a product that the busiest rank reads for so many tokens of each replica: all experts where it is 1."""
        if not product.is_expert or self._load_variation <= 0:
            return product.touched(tokens, self.expert_batches)
        routing = Routing(product.active, product.all_copies, self._load_variation)
        return routing.busiest_touched(tokens * self.expert_batches, self.ep)

    def _busiest(self, active: int, experts: int, tokens: Number) -> Number:
        """Rows of the busiest rank over what `expert_share` gives it: what was asked for stands, if it is more."""
        if self.ep == 1 or self._load_variation <= 0:
            return 1.0
        routing = Routing(active, experts, self._load_variation)
        rows = routing.busiest_rows(tokens * self.expert_batches, self.ep)
        return maximum(rows / self.scenario.parallelism.expert_imbalance, 1.0)

    def _scales_s(self, product: Product, kind: Kind) -> float:
        """What scales of blocks add to a kernel's floor: activations are scaled first. Experts' are, in their routing."""
        return (
            self.constants["block_8bit_us"] * 1e-6 if kind == BLOCK_SCALED and not product.is_expert else 0.0
        )

    def _kernel_kind(self, product: Product) -> Kind:
        """What the kernel of a product multiplies; where one width stands for all matrices, heads and routers stay wide."""
        dtype, stored = self.scenario.dtype, product.stored
        if stored is None:
            if part_of(product.op) == "lm_head" or product.op == "router":
                return "16-bit"
            if self._weight_only:
                return "weight-only 8-bit" if dtype.weight_bits == 8 else "weight-only 4-bit"
            return _NATIVE_KINDS.get(dtype.compute_bits, "16-bit")
        if self._narrow(product):
            return "weight-only 8-bit" if stored.bits >= _LEAST_8BIT else "weight-only 4-bit"
        if self._by_8bit(product):
            return BY_8BIT
        if stored.name == "fp8_block" and self.constants["block_8bit_flops"] > 0:
            return BLOCK_SCALED
        return _NATIVE_KINDS[{"16-bit": 16, "converted": 16, "fp4": 4}.get(stored.kernels, 8)]

    def _unpack(self, costs: Costs, product: Product, tokens: Number, layers: int, routed: Number) -> None:
        """Kernels that unpack quantised weights into 16 bits before the product move bytes per weight and pass.

        A conversion reads what is stored and writes the copy, which the product then reads; of experts all are converted.
        """
        unpacks = self._unpacks(product, product.rows(tokens))
        if unpacks is False:
            return
        if self._converted(product):
            moved: Number = (
                product.copies * product.weights * (self._stored_bytes(product) + self.activation_bytes)
            )
        else:
            weights = self.touched(product, routed) * product.weights
            moved = where(unpacks, weights * self.constants["unpack_bytes_per_weight"], 0.0)
        seconds = layers * moved / self.rates.elementwise_bytes_per_s
        rate = self.rates.elementwise_bytes_per_s
        unpacked = (Factor("layers", layers), Factor("bytes", moved), Factor("bytes/s", rate, divides=True))
        costs.part(
            "dequantisation", seconds, one_term("dequantisation", product.op.replace("_", " "), *unpacked)
        )
        costs.busy("hbm", seconds)

    def _empty_blocks(
        self, costs: Costs, product: Product, tokens: Number, layers: int, routed: Number
    ) -> None:
        """Blocks of rows that a grouped kernel works off for experts that no token is sent to."""
        c, kind = self.constants, self._kernel_kind(product)
        shards = expert_tensor_shards(self.tp, self.dp, self.ep)
        if not product.is_expert or not self._sm_ghz or not pads_experts(c, kind, shards):
            return
        rows = product.rows(tokens) * self.expert_share
        blocks = empty_blocks(c["padded_expert_rows"], product.copies, rows, self.touched(product, routed))
        moved, rate = loaded_bytes(product, blocks), c["padded_gb_per_s_per_sm_ghz"] * self._sm_ghz * 1e9
        seconds = layers * moved / rate
        part, name = part_of(product.op), "empty blocks of experts"
        factors = (Factor("layers", layers), Factor("bytes", moved), Factor("bytes/s", rate, divides=True))
        costs.part(part, seconds, one_term(part, name, *factors))
        costs.busy("compute", seconds)

    @property
    def _unpacks_tables(self) -> bool:
        """The token table and the head are quantised as well, and whatever is quantised is unpacked in every pass."""
        dtype = self.scenario.dtype
        always = self.constants["unpack_bytes_per_weight"] > 0 and self.constants["unpack_min_rows"] <= 1
        return always and dtype.formats is None and dtype.embedding_bits < dtype.activation_bits

    def _unpack_tables(self, costs: Costs) -> None:
        """A quantised token table is unpacked whole in every pass: for the lookup of a few rows, and for the head."""
        if not self._unpacks_tables:
            return
        weights = token_table_params(self.model) + sum(product.weights for product in self.head)
        each, rate = self.constants["unpack_bytes_per_weight"], self.rates.elementwise_bytes_per_s
        seconds = weights * each / rate
        factors = (
            Factor("weights", weights), Factor("bytes per weight", each), Factor("bytes/s", rate, divides=True)
        )  # fmt: skip
        costs.part("dequantisation", seconds, one_term("dequantisation", "token table", *factors))
        costs.busy("hbm", seconds)

    def narrowing_products(self, products: Sequence[Product]) -> int:
        """How many products narrow their activations first, each by a kernel of its own."""
        return sum(self._kernel_kind(product) in QUANTISED for product in products)

    def expert_kinds(self, products: Sequence[Product]) -> set[Kind]:
        """The kinds of kernels that multiply with experts; none where there are no experts."""
        return {self._kernel_kind(product) for product in products if product.is_expert}
