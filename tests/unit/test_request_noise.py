"""What the tables of requests say of their own noise: on cases by hand."""

from __future__ import annotations

import math

import pytest

from calibrate.validate.request_noise import again, floor_table, neighbours, one_factor_each, twice
from calibrate.validate.requests import read_predicted, rows

ROW = {"source_repo": "a/b", "system": "vllm", "prompt_len_tok": "8", "gen_len_tok": "4", "batch_size": "4"}


def line(row_id: str, measured: float, predicted: float) -> dict[str, str]:
    return {
        "row_id": row_id, "load": "closed loop", "release": "vllm@1", "quantity": "ttft_s", "reason": "",
        "measured": repr(measured), "predicted": repr(predicted),
    }  # fmt: skip


def test_a_run_measured_twice_is_as_far_off_as_one_of_them() -> None:
    """Two values a factor f apart are each sqrt(f) from their mean, and a single run sqrt(2) times as far in the log."""
    found = again([ROW | {"ttft_s": "1"}, ROW | {"ttft_s": "4"}, ROW | {"ttft_s": "9", "tp": "2"}], "ttft_s")
    assert found == {"a/b": (2, pytest.approx(math.exp(math.log(2) * math.sqrt(2))))}


def test_a_factor_on_a_whole_deployment_is_no_noise_and_one_row_off_is() -> None:
    table = [ROW | {"row_id": str(batch), "batch_size": str(batch)} for batch in (4, 16, 64)]
    straight = [line(str(batch), batch**0.7, 3.0) for batch in (4, 16, 64)]
    assert neighbours(table, straight, "ttft_s") == (1, pytest.approx(1.0))
    bent = [straight[0], line("16", 2.0 * 16**0.7, 3.0), straight[2]]
    assert neighbours(table, bent, "ttft_s") == (1, pytest.approx(2.0 ** (1 / math.sqrt(1.5))))


def test_a_factor_for_each_group_leaves_what_differs_in_it() -> None:
    table = [
        ROW | {"row_id": name, "gpu": gpu} for name, gpu in (("1", "x"), ("2", "x"), ("3", "x"), ("4", "y"))
    ]
    lines = [line("1", 1.0, 3.0), line("2", 1.0, 3.0), line("3", 1.0, 6.0), line("4", 1.0, 0.1)]
    found = one_factor_each(table, lines, ("closed loop",), "ttft_s", ("gpu",))
    assert found == (4, 2, pytest.approx(2.0 ** (1 / 4)))


def test_a_rate_that_stands_with_two_lengths_is_found() -> None:
    one = ROW | {"row_id": "1", "throughput_tok_s": "7.5"}
    assert twice([one, one | {"row_id": "2", "prompt_len_tok": "9"}])
    assert not twice([one, one | {"row_id": "2"}, one | {"row_id": "3", "throughput_tok_s": "7.6"}])


def test_no_aim_is_below_what_a_row_is_worth() -> None:
    """The aims that are missed are above the noise of a row: it is no excuse for them."""
    found = "\n".join(floor_table(rows(), read_predicted()))
    count, gm = neighbours(rows(), read_predicted(), "ttft_s")
    assert count > 400
    assert gm < 1.35
    assert "| closed loop | TTFT |" in found
