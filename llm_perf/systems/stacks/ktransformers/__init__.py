"""ktransformers: see `llm_perf.systems.expert_offload`."""

from llm_perf.systems.expert_offload import ExpertOffload

__all__ = ["ExpertOffload"]
