"""FlexGen policies that cannot be: one clear line, exit 2, nothing printed."""

import shlex

import pytest

RUN = ("infer", "--model", "opt-30b", "--gpu", "t4", "--system", "flexgen")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--percent '60 50 0 100 0 100'", "more than 100"),
        ("--percent '-20 80 0 100 0 100'", "0 to 100"),
        ("--percent '20 80 0 100 0'", "six numbers"),
        ("--percent '20 80 0 100 0 nan'", "percent"),
        ("--percent '20 80 0 100 50 50'", "one place"),
        ("--gpu-batch-size 0", "gpu_batch_size"),
        ("--num-gpu-batches 0", "num_gpu_batches"),
        ("--gpu-batch-size 48 --num-gpu-batches 3 --batch-size 100", "48"),
        ("--quant-bits 3", "bits"),
        ("--quant-bits 8", "4, not 8"),
        ("--host flexgen-reproduction --percent '0 50 0 0 0 100'", "no disk"),
    ],
)
def test_a_policy_that_cannot_be_ends_with_one_line_and_exit_2(llm_perf, arguments, said):
    shown = llm_perf(*RUN, *shlex.split(arguments))
    assert shown.code == 2
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert said in shown.err
