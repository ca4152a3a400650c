"""Parameters of the whole model and of a layer, under llm-analysis' divisions. Functions of a `Setup`."""

from __future__ import annotations

from dataclasses import dataclass

from llm_perf.counts.parameters import embedding_params, lm_head_params, token_table_params
from llm_perf.llm_analysis.setup import Setup


@dataclass(frozen=True, slots=True)
class ParameterTotals:
    """Elements of the whole model, whatever it is spread over.

    ``mlp`` are the feed-forward matrices of all layers without routers, ``embedding`` the tables and an untied LM
    head, ``others`` the rest; ``active`` is what one token uses.
    """

    total: float
    active: float
    mlp: float
    embedding: float

    @property
    def others(self) -> float:
        """What is neither feed-forward matrix nor embedding."""
        return self.total - self.mlp - self.embedding


def parameter_totals(setup: Setup) -> ParameterTotals:
    """Elements of the whole model, each stored weight once."""
    ends = embedding_elements(setup) + setup.last_norm_params
    return ParameterTotals(
        total=setup.total(lambda layer: layer.params.total) + ends,
        active=setup.total(lambda layer: layer.active_params.total) + ends,
        mlp=setup.total(lambda layer: layer.params.mlp),
        embedding=embedding_elements(setup),
    )


def embedding_elements(setup: Setup, shared: bool = True) -> int:
    """Elements of the embeddings before and after the layers; a head that shares the token table is no second one.

    A model whose embeddings are untied has a head of its own whatever ``shared`` says.
    """
    model = setup.model
    head = lm_head_params(model) - setup.last_norm_params
    second_table = token_table_params(model) if model.tied_embeddings and not shared else 0
    return embedding_params(model) + head + second_table
