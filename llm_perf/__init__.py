"""llm-perf: an analytical performance simulator for large language models.

The package follows the flow of a prediction: :mod:`llm_perf.config` (what a user describes),
:mod:`llm_perf.counts` (facts of shapes), :mod:`llm_perf.hardware` (time of one thing on one resource),
:mod:`llm_perf.systems` (where tensors live and what overlaps what), :mod:`llm_perf.analysis` (a typed
result), :mod:`llm_perf.report` (formats) and :mod:`llm_perf.cli`. Imports go that way only.
"""

__version__ = "0.1.0"
