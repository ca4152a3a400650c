"""``llm-perf plan --host`` on machines that no card goes into."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("host", ["m2 ultra", "dgx-spark"])
def test_a_machine_without_pcie_is_planned_no_card(llm_perf, host):
    found = llm_perf("plan", "--model", "llama-3-8b", "--host", host)
    assert (found.code, found.out) == (2, "")
    assert found.err.count("\n") == 1
    assert "has no place for a card" in found.err
