"""What ZeRO stage 3 keeps on every GPU, and what passes through it and through host buffers."""

from __future__ import annotations

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number
from llm_perf.counts.linears import layer_linears
from llm_perf.counts.parameters import layer_matrices, layer_vector_params, token_table_params
from llm_perf.systems.hybrid import touched_share


def kept_param_bytes(scenario: Scenario) -> float:
    """Bytes of parameters of at most h elements (norms, most biases): ZeRO keeps them on every GPU."""
    hidden = scenario.model.hidden_size
    kept = 0
    for group in scenario.model.layer_groups:
        small_biases = sum(
            linear.out_features
            for linear in layer_linears(group, hidden)
            if linear.bias and linear.copies == 1 and linear.out_features <= hidden
        )
        kept += group.count * (layer_vector_params(scenario.model, group) + small_biases)
    return kept * scenario.dtype.activation_bits / 8


def streamed_parameters(scenario: Scenario, tokens: Number | None = None) -> Number:
    """Parameters that a pass copies to each GPU one by one, its part of each: matrices, biases of more than h, tables.

    Of a mixture's experts those that ``tokens`` are sent to, all if None. Quantised matrices have scales beside them,
    in a copy of their own. Source: DeepSpeed, runtime/zero/partition_parameters.py (each parameter of a
    module is copied and gathered by itself).
    """
    model, hidden = scenario.model, scenario.model.hidden_size
    pieces = 1.0 if scenario.dtype.weight_bits >= 16 else 2.0
    found: Number = pieces * (1.0 if model.tied_embeddings else 2.0) + (
        1.0 if model.learned_positions else 0.0
    )
    for group in model.layer_groups:
        experts = 1.0 if tokens is None else touched_share(group, tokens)
        wide_biases: Number = 0.0
        for linear in layer_linears(group, hidden):
            if linear.bias and linear.copies > 1:
                wide_biases = wide_biases + linear.copies * experts
            elif linear.bias and linear.out_features > hidden:
                wide_biases = wide_biases + 1
        found = found + group.count * (pieces * layer_matrices(model, group, experts) + wide_biases)
    return found


def largest_parameter(scenario: Scenario) -> int:
    """Elements of the largest single parameter: a matrix or the token table. It has to be gathered whole."""
    model = scenario.model
    matrices = [
        linear.weights for group in model.layer_groups for linear in layer_linears(group, model.hidden_size)
    ]
    return max([*matrices, token_table_params(model)])


def live_param_bytes(scenario: Scenario, constants: dict[str, float]) -> float:
    """Bytes of gathered weights on the GPU: live parameters (at least the largest one), a prefetch bucket, copies in transit.

    What is gathered stands in a flat tensor of all ranks' parts, out of which each parameter is copied before that goes, so
    that the largest one exists twice (DeepSpeed, runtime/zero/partition_parameters.py, AllGatherCoalescedHandle). A lone rank
    has nothing to gather: whether it does so all the same depends on the version.
    """
    square, largest = scenario.model.hidden_size**2, largest_parameter(scenario)
    live = max(constants["max_live_hidden_squares"] * square, largest)
    copies = 2.0 if scenario.parallelism.dp_size > 1 else constants["lone_gather_copies"]
    in_transit = (copies - 1.0) * largest
    elements = in_transit + (live + constants["prefetch_bucket_hidden_squares"] * square)
    return elements * scenario.dtype.activation_bits / 8


def nvme_buffer_bytes(scenario: Scenario, constants: dict[str, float]) -> float:
    """Bytes of one CPU buffer for NVMe reads: every parameter has to fit one."""
    elements = max(constants["nvme_buffer_elements"], largest_parameter(scenario))
    return elements * scenario.dtype.activation_bits / 8
