"""Bytes of logits and of what the loss makes of them, by the way in which the loss is computed."""

from __future__ import annotations

from dataclasses import dataclass

from llm_perf.config.training import LossKind, TrainingScenario
from llm_perf.counts.arrays import Number
from llm_perf.counts.products import lm_head_products

SPLIT_OVER_TENSOR_RANKS: frozenset[str] = frozenset({"vocab-parallel", "fused"})
"""Ways that leave each tensor-parallel rank its slice of the vocabulary; the others gather whole logits."""


_WHOLE = ("plain", "chunked")
"""Ways that write every logit; in pieces or at once, they move the same bytes."""


@dataclass(frozen=True, slots=True)
class LossBytes:
    """Bytes at the loss' fullest moment, and what of the logits is still held during the backward pass."""

    peak: Number
    retained: Number


class Loss:
    """The loss of one scenario: ``kind`` as the plan says, else as the framework does."""

    def __init__(
        self, scenario: TrainingScenario, constants: dict[str, float], default: LossKind = "vocab-parallel"
    ) -> None:
        self.scenario, self.c = scenario, constants
        self.own: LossKind = default
        self.kind: LossKind = scenario.plan.loss or default

    @property
    def logits_per_token(self) -> float:
        """Logits of one token on one rank."""
        split = self.kind in SPLIT_OVER_TENSOR_RANKS
        tp = self.scenario.parallelism.tp_size if split else 1
        return lm_head_products(self.scenario.model, tp)[-1].out_features

    @property
    def bytes_per_logit(self) -> float:
        """Bytes per logit of a micro-batch at the fullest moment, those of a chunk spread over all."""
        c, own = self.c, self.scenario.plan.logit_bytes
        plain = c["plain_logit_bytes"] if own is None else own
        if self.kind == "chunked":
            kept, chunk = c["chunked_logit_bytes"], plain
            if self.scenario.plan.compile:
                kept, chunk = c["compiled_chunked_logit_bytes"], min(c["compiled_chunk_bytes"], plain)
            return min(kept + chunk / c["loss_chunks"], plain)
        return {
            "plain": plain,
            "fused": c["fused_logit_bytes"],
            "vocab-parallel": c["vocab_parallel_logit_bytes"],
        }[self.kind]

    def live(self, tokens: Number) -> LossBytes:
        """Bytes of ``tokens`` tokens of one rank: logits by kind, and the hidden-wide tensors around the head."""
        logits = tokens * self.logits_per_token
        # In chunks, gradients of the hidden state come when those of the logits go.
        vectors = self.c["head_hidden_vectors"] * (0.5 if self.kind == "chunked" else 1.0)
        around = tokens * self.scenario.model.hidden_size * vectors * self.scenario.plan.wide_bytes
        retained = logits * self.c["retained_logit_bytes"] if self.kind == "plain" else 0.0
        return LossBytes(logits * self.bytes_per_logit + around, retained)

    @property
    def traffic_per_logit(self) -> float:
        """Bytes per logit that the loss and its gradient move: the framework's own where it computes it its own way."""
        own = self.c["logit_bytes"]
        if self.kind == self.own:
            return own
        if self.kind in _WHOLE:
            return own if self.own in _WHOLE else max(own, self.c["plain_logit_traffic"])
        return min(own, self.c["fused_logit_traffic"])
