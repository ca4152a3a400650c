"""The Python API: the command line's numbers, typed, as tables, and as HTML in notebooks."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import llm_perf
from llm_perf.api import table
from llm_perf.errors import LLMPerfError, MissingExtraError, SpecError


class Checked(HTMLParser):
    """Fails on tags that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def text_of(html: str) -> str:
    parser = Checked()
    parser.feed(html)
    assert parser.open == []
    assert "<script" not in html
    return parser.text


def test_a_prediction_is_what_infer_says():
    found = llm_perf.predict("opt-30b", "t4", ds_zero=3, batch_size=4)
    assert found.feasible
    told = found.as_dict()
    assert told["total"]["latency_s"] == found.total_latency_s
    assert told["prefill"]["latency_s"] == found.prefill_latency_s
    assert told["decode"]["latency_per_token_s"] == found.latency_per_token_s
    assert told["total"]["throughput_tokens_per_s"] == found.throughput_tokens_per_s
    assert told["inputs"]["batch_size"] == 4
    assert "opt-30b on t4" in repr(found)
    text = text_of(found._repr_html_())
    assert "weight streaming" in text
    assert "OPT" in text or "opt" in text


def test_what_does_not_fit_says_so():
    found = llm_perf.predict("opt-175b", "t4")
    assert not found.feasible
    assert "does not fit" in repr(found)
    assert found.changes
    assert "missing" in text_of(found._repr_html_())


def test_a_sweep_is_a_table_of_predictions():
    found = llm_perf.sweep(
        model="opt-13b", gpu=["a100-sxm-80gb", "t4"], batch_size=np.array([1, 8]), tp_size=[None, 3]
    )
    assert len(found) == 8
    assert repr(found) == "<SweepTable of 8 points, 2 fit>"
    assert found["gpu"].tolist() == ["a100-sxm-80gb"] * 4 + ["t4"] * 4
    assert found["tp_size"].tolist() == [None, None, 3, 3] * 2
    one = llm_perf.predict("opt-13b", "a100-sxm-80gb", batch_size=8)
    assert found["total_latency_s"][1] == pytest.approx(one.total_latency_s, rel=1e-12)
    assert found.best[0]["batch_size"] == 8
    assert "2 fit" in text_of(found._repr_html_())
    with pytest.raises(KeyError, match="is no column"):
        found["speed"]
    again = llm_perf.sweep(model="opt-13b", gpu=["a100-sxm-80gb", "t4"], batch_size=[1, 8], tp_size=[None, 3])
    assert {found, again} == {again, found}  # tables are told apart, not compared
    assert found != again


def test_points_and_processes():
    points = [{"gpu": "t4", "quant_bits": 4}, {"gpu": "l4", "quant_bits": None}]
    here = llm_perf.sweep(model="opt-1.3b", points=points, batch_size=range(1, 4))
    there = llm_perf.sweep(model="opt-1.3b", points=points, batch_size=range(1, 4), executor="processes:2")
    assert here["quant_bits"].tolist() == [4, 4, 4, None, None, None]
    np.testing.assert_array_equal(here["total_latency_s"], there["total_latency_s"])


def test_tables_of_other_libraries(monkeypatch):
    pytest.importorskip("pyarrow", reason="the extra 'explore' is not installed")
    found = llm_perf.sweep(model="opt-1.3b", gpu="t4", batch_size=[1, 2], gen_len=[1, 2])
    arrow = found.to_arrow()
    assert arrow.num_rows == 4
    assert arrow["latency_per_token_s"].null_count == 2
    with monkeypatch.context() as without:
        without.setattr(table, "find_spec", lambda _: None)
        with pytest.raises(LLMPerfError, match="pip install pandas"):
            found.to_pandas()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="explore"):
        found.to_arrow()


def test_any_collection_is_an_axis():
    wanted = llm_perf.sweep(model="opt-1.3b", gpu="t4", batch_size=[1, 2])["total_latency_s"]
    for values in ({1: "a", 2: "b"}, (size for size in (1, 2)), np.array([1.0, 2.0])):
        found = llm_perf.sweep(model="opt-1.3b", gpu="t4", batch_size=values)
        np.testing.assert_array_equal(found["total_latency_s"], wanted)
    points = ({"gpu": gpu} for gpu in ("t4", "l4"))
    assert len(llm_perf.sweep(model="opt-1.3b", points=points)) == 2


@pytest.mark.parametrize(
    "inputs",
    [
        {"batch_size": ["a"]},
        {"batch_size": [0]},
        {"batch_size": [1.5]},
        {"batch_size": [float("nan")]},
        {"batch_size": [True]},
        {"batch_size": np.ones((2, 2))},
        {"tp_size": [[1]]},
        {"quant_bits": 5},
        {"points": 5},
        {"points": {"tp_size": 1}},
        {"points": [{"tp_size": [1]}]},
        {"executor": None},
    ],
)
def test_values_of_a_wrong_kind_are_refused(inputs):
    with pytest.raises(SpecError):
        llm_perf.sweep(model="opt-1.3b", gpu="t4", **inputs)


def test_too_many_points_to_hold_are_refused(monkeypatch):
    monkeypatch.setattr(table, "MOST_POINTS", 3)
    with pytest.raises(SpecError, match="4 points are more than the 3"):
        llm_perf.sweep(model="opt-1.3b", gpu="t4", batch_size=[1, 2, 3, 4])


def test_the_package_itself_loads_nothing():
    code = "import sys, llm_perf; print([name for name in sys.modules if name.startswith(('llm_perf.', 'numpy'))])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
    with pytest.raises(AttributeError, match="nothing"):
        llm_perf.nothing  # noqa: B018
