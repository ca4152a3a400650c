"""A trainer's own file as inputs of ``llm-perf train``: what it says in this project's names, and what was not used."""

from llm_perf.analysis.trainer_files.read import KINDS, TrainerFile, read_trainer_file

__all__ = ["KINDS", "TrainerFile", "read_trainer_file"]
