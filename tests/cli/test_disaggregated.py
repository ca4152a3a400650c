"""`llm-perf simulate` with a pool that reads prompts and one that generates, and with policies by name."""

from __future__ import annotations

import pytest

BASE = (
    "simulate",
    "--model",
    "llama-3.1-8b",
    "--gpu",
    "h100-sxm-80gb",
    "--num-requests",
    "100",
    "--gen-len",
    "64",
)


def test_pools_free_decodes_from_prompts(llm_perf, folder):
    together = llm_perf(*BASE, "--rate", "20", "--replicas", "2", "--json").json
    apart = llm_perf(*BASE, "--rate", "20", "--prefill-replicas", "1", "--json").json
    assert apart["num_gpus"] == together["num_gpus"] == 2
    assert apart["itl_s"]["p99"] < together["itl_s"]["p99"]
    assert apart["requests"]["completed"] == 100
    assert apart["tpot_s"]["mean"] >= apart["idle"]["tpot_s"]


def test_the_pools_may_be_divided_differently(llm_perf, folder):
    found = llm_perf(
        *BASE, "--rate", "20", "--prefill-replicas", "2", "--prefill-tp-size", "2", "--json"
    ).json
    assert found["num_gpus"] == 5


def test_policies_by_name(llm_perf, folder):
    asked = (*BASE, "--rate", "20", "--system", "tensorrt_llm", "--json")
    default = llm_perf(*asked).json
    other = llm_perf(*asked, "--scheduler", "MAX_UTILIZATION").json
    assert (default["scheduler"], other["scheduler"]) == ("GUARANTEED_NO_EVICT", "MAX_UTILIZATION")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--prefill-tp-size", "2"), "give prefill_replicas"),
        (("--pools-on-one-node",), "give prefill_replicas"),
        (("--prefill-replicas", "1", "--routing", "least-loaded"), "leave prefill_replicas out"),
        (("--prefill-replicas", "0"), "prefill_replicas"),
        (("--prefill-replicas", "1", "--dp-size", "2"), "dp_size"),
        (("--prefill-replicas", "1", "--prefill-tp-size", "3"), "tp_size 3"),
        (("--scheduler", "nothing"), "scheduler 'nothing'"),
    ],
)
def test_bad_input_is_one_line(llm_perf, folder, asked, said):
    assert said in llm_perf(*BASE, "--rate", "1", *asked).error
