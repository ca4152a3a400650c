"""Hugging Face transformers: a resident stack whose 8-bit products (LLM.int8) cost host time of their own."""

from __future__ import annotations

from llm_perf.config.scenario import Scenario
from llm_perf.counts.products import layer_products
from llm_perf.systems.resident import Resident


class Transformers(Resident):
    """Eager transformers; several GPUs hold successive layers and work one after another."""

    name = "transformers"

    def constants(self, scenario: Scenario) -> dict[str, float]:
        """The stack's constants, overridden by the scenario's, with the cost of 8-bit products per step."""
        return with_int8_products(scenario, super().constants(scenario))


def with_int8_products(scenario: Scenario, constants: dict[str, float]) -> dict[str, float]:
    """Constants whose time per step includes LLM.int8's splitting of outliers, once per product.

    Source: arXiv 2208.07339, section 3; the cost per product is a constant of the stack.
    """
    formats = scenario.dtype.formats
    if scenario.dtype.weight_bits != 8 or (formats is not None and formats.name != "bnb_int8"):
        return constants
    products = sum(
        group.count * len(layer_products(scenario.model, group)) for group in scenario.model.layer_groups
    )
    step_ms = constants["step_ms"] + products * constants["int8_product_us"] * 1e-3
    return constants | {"step_ms": step_ms}
