"""A simulation that ends early, since a target is missed for certain, says what its end would say."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.requests.simulate import simulate
from llm_perf.requests.summary import summary_of
from llm_perf.requests.workload import Requests
from llm_perf.search.misses import Misses
from llm_perf.search.targets import Target

DEPLOYMENT = build_scenario(InferenceInputs(model="llama-3.1-8b", gpu="l4-24gb", system="vllm"))


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.5, 40),
    st.sampled_from(["ttft", "tpot", "latency"]),
    st.sampled_from(["p50", "p90", "p95", "p99"]),
    st.sampled_from([0.5, 0.9, 0.999, 1.0, 1.001, 1.1]),
    st.sampled_from([0, 30]),
    st.integers(0, 9),
)
def test_what_ends_early_misses_its_target(rate, name, figure, share, warm_up, seed):
    random = np.random.default_rng(seed)
    come = np.cumsum(random.exponential(1 / rate, 150))
    requests = Requests.of(come, random.integers(1, 900, 150), random.integers(1, 90, 150))
    whole = summary_of(simulate(DEPLOYMENT, requests), warm_up)
    quantity = Target(name, 1.0, True, figure).of_requests
    value = getattr(whole, quantity).percentile(figure)
    target = Target(name, share * value, True, figure)
    there = summary_of(simulate(DEPLOYMENT, requests, ends_early=Misses((target,), warm_up)), warm_up)
    if there.running:
        assert share < 1
        assert not target.met(getattr(there, quantity).percentile(figure))
    else:
        assert there == whole
