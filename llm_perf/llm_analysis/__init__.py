"""The API of llm-analysis over llm-perf's own counts: the class `LLMAnalysis`, the functions `infer` and `train`.

Names, arguments and summary keys are those of llm-analysis; so are the values, but where
docs/llm_analysis_departures.md says otherwise. Read `setup` first, then `memory`, `latency` and `summary`, then
`training_memory`, `training_time` and `training`: they hold the formulas as functions of a `Setup`. The ``*_methods``
modules hold the class's methods, which check their arguments and call those functions.
"""

LOGGER = "llm_perf.analysis"
"""What its summaries and remarks are logged by: the name that `LLMAnalysis` is imported from."""
