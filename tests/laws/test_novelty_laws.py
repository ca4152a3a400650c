"""Laws of what is new to the rows of a stack: it never narrows an interval, and rows never widen one."""

from __future__ import annotations

from hypothesis import given, reject
from hypothesis import strategies as st

from calibrate.validate.novelty import known_of
from llm_perf.analysis.novelty import LEVELS, Question, levels_of, novelty
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.stack_intervals import stack_width
from llm_perf.errors import SpecError

KINDS = ("attention", "windowed attention", "state-space", "expert")
WEIGHTS = ("16-bit layers", "fp8 layers", "nvfp4 experts")


def some(names: tuple[str, ...], least: int = 0) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(names), min_size=least)


questions = st.builds(
    Question,
    maker=st.sampled_from(("nvidia", "amd")),
    generation=st.sampled_from(("hopper", "blackwell", "cdna3")),
    layers=some(KINDS, 1),
    weights=st.sampled_from(WEIGHTS).map(lambda name: frozenset({name})),
    cache=st.sampled_from(("16 bits", "8 bits")),
    parallelism=some(("tensor ranks", "expert ranks")),
    sizes=st.fixed_dictionaries({"sequences": st.floats(1, 4096), "context": st.floats(16, 131072)}),
)
rows = st.lists(questions, min_size=1, max_size=6)


@given(rows=rows)
def test_nothing_is_new_of_a_row_to_the_rows_with_it(rows: list[Question]) -> None:
    assert not any(novelty(one, known_of(rows)) for one in rows)


@given(asked=questions, rows=rows, more=rows)
def test_more_rows_make_nothing_newer(asked: Question, rows: list[Question], more: list[Question]) -> None:
    fewer = levels_of(novelty(asked, known_of(rows)), None)
    assert set(levels_of(novelty(asked, known_of([*rows, *more])), None)) <= set(fewer)


@given(asked=questions, rows=rows, relatives=rows)
def test_a_family_s_rows_make_nothing_newer(
    asked: Question, rows: list[Question], relatives: list[Question]
) -> None:
    found = novelty(asked, known_of(rows))
    beside = novelty(asked, known_of([*rows, *relatives]))
    assert set(levels_of(found, beside)) <= set(levels_of(found, None)) <= set(LEVELS)
    assert bool(found) == bool(levels_of(found, beside))


changes = st.fixed_dictionaries(
    {},
    optional={
        "batch_size": st.sampled_from((1, 64, 512, 4096)),
        "prompt_len": st.sampled_from((16, 1000, 30_000)),
        "kv_format": st.just("fp8"),
        "weight_format": st.sampled_from(("fp8", "awq", "nvfp4", "nf4")),
        "gpu": st.sampled_from(("b300-sxm", "mi355x", "rtx-4090", "gaudi3")),
    },
)


@given(
    system=st.sampled_from(("vllm@0.12", "vllm@0.15", "vllm@0.99", "sglang@0.5", "tensorrt_llm@1.1")),
    changes=changes,
    batch=st.sampled_from((4096, 100_000)),
)
def test_what_is_new_never_narrows(system: str, changes: dict[str, object], batch: int) -> None:
    """More sequences than any row has are new whatever else is asked: the interval is no narrower with them."""
    asked = {"model": "llama-3.1-8b", "gpu": "h200-sxm-141gb", "system": system, "batch_size": 16} | changes
    try:
        plain = stack_width(build_scenario(InferenceInputs.model_validate(asked)))
    except SpecError:  # the engine has no kernels for that format, or there
        reject()
    new = stack_width(build_scenario(InferenceInputs.model_validate(asked | {"batch_size": batch})))
    assert plain is not None
    assert new is not None
    assert new.value >= plain.value
    assert bool(new.novel)
