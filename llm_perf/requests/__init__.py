"""The request level: who asks when, for how much, and what an engine makes of it.

Requests come in (:mod:`.workload`, made by :mod:`.arrivals` and :mod:`.lengths`), an outcome with a time of each of
their tokens comes out. The seconds of a step are those of :mod:`llm_perf.systems`; no formula of them stands here.
"""
