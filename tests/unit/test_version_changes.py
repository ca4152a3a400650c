"""What one version's constants cannot know of another: read off equal runs, and what the page says of it holds."""

import math
from itertools import product
from pathlib import Path

import pytest

from calibrate.evidence.ratios import gm
from calibrate.evidence.serving_rows import load_rows
from calibrate.validate import requests
from calibrate.validate.stacks import device_width, read_left_out, unlisted_widths
from calibrate.validate.version_changes import PAGE, between, equal_deployments, equal_runs, page
from llm_perf.systems.constants import beside, load_release, stands_on
from llm_perf.systems.families import family_names, folder_of

ROOT = Path(__file__).parents[2]


def row(row_id: str, version: str, **more: str) -> dict[str, str]:
    plain = dict.fromkeys(("act_dtype", "kv_dtype", "num_nodes", "tp", "pp", "ep", "throughput_def"), "")
    return plain | {
        "row_id": row_id, "source_repo": "a/b", "system": "vllm", "system_version": version, "model": "m", "gpu": "g",
        "gpu_count": "1", "weight_dtype": "bf16", "batch_size": row_id[0], "prompt_len_tok": "100", "gen_len_tok": "10",
        "tpot_s": "", "throughput_tok_s": "",
    } | more  # fmt: skip


def line(
    row_id: str, release: str, how: str = "shipped", log_ratio: float = 0.0, **more: str
) -> dict[str, str]:
    return {
        "row_id": row_id, "release": release, "how": how, "group": "", "quantity": "tpot_s", "log_ratio": str(log_ratio),
    } | more  # fmt: skip


def test_equal_runs_say_what_changed_and_others_say_nothing() -> None:
    """Four settings that both versions ran, a fifth of one alone: 1.2 times faster, in a rate as well."""
    old = [row(f"{n}a", "0.6.3", tpot_s=str(0.012 * n)) for n in (1, 2, 3)]
    new = [row(f"{n}b", "0.7.1", tpot_s=str(0.01 * n)) for n in (1, 2, 3)]
    rates = [row("4a", "0.6.3", throughput_tok_s="100"), row("4b", "0.7.1", throughput_tok_s="120")]
    alone = [row("5b", "0.7.1", tpot_s="7"), row("5c", "0.6.3", tpot_s="9", weight_dtype="fp8")]
    rows = [*old, *new, *rates, *alone]
    lines = [
        line(one["row_id"], f"vllm@{one['system_version'][:3]}")
        | ({"quantity": "throughput_tok_s"} if one["throughput_tok_s"] else {})
        for one in rows
    ]
    (found,) = equal_runs(rows, lines)
    assert (found.earlier, found.later, found.files) == ("0.6.3", "0.7.1", ("vllm@0.6", "vllm@0.7"))
    assert (found.rows, found.ratio, found.gm) == (4, pytest.approx(1 / 1.2), pytest.approx(1.2))
    assert found.spread == pytest.approx(1.0)


def test_versions_in_between_part_a_change() -> None:
    rows = [
        row(f"{n}{version}", version, tpot_s=time)
        for n in (1, 2, 3, 4)
        for version, time in (("0.6", "3"), ("0.7", "2"), ("0.8", "1"))
    ]
    changes = equal_runs(rows, [line(one["row_id"], "vllm@0.6") for one in rows])
    assert [(one.earlier, one.later) for one in changes] == [("0.6", "0.7"), ("0.7", "0.8")]


def test_what_the_constants_get_wrong_of_a_deployment_is_no_change() -> None:
    """A constant off by a factor on both versions' rows is taken off; what remains is the change, as log of times."""
    rows = [row("1", "0.6"), row("2", "0.7")]
    for wrong, change in product((-0.3, 0.0, 0.5), (-0.2, 0.4)):
        lines = [
            line("1", "vllm@0.6", log_ratio=wrong),
            line("2", "vllm@0.7", "neighbour", wrong - change, group="vllm@0.6"),
        ]
        (found,) = equal_deployments(rows, lines)
        assert found.logs == (pytest.approx(change),)
    assert not equal_deployments([rows[0], rows[1] | {"gpu": "other"}], lines)


def test_the_mean_of_two_predictions_is_never_worse_than_the_worse_one() -> None:
    found = list(between(read_left_out()))
    assert len(found) > 8
    for _, before, after, both in found:
        assert both <= max(before, after) + 1e-9


def test_what_stands_beside_a_version_does_not_know_it() -> None:
    """One on each side at most, never one that inherits from it."""
    for family in family_names():
        folder = folder_of(family)
        for release in folder.all_releases:
            found = beside(family, release)
            assert len(found) <= 2
            assert release not in found
            assert not any(stands_on(family, other, release) for other in found)
            assert all((other in folder.special) == (release in folder.special) for other in found)
    assert beside("vllm", "0.10") == ("0.7", "0.15")
    assert beside("vllm", "0.10", alone={"0.12"})[0] == "0.12"
    assert beside("vllm", "0.8.4-rocm", ("amd", "cdna3")) == ("0.15-cdna3", "0.5-cdna3")
    assert beside("vllm", "0.15-gddr7", ("nvidia", "blackwell gddr7")) == ()


def test_intervals_of_versions_that_do_not_ship_hold_nine_tenths() -> None:
    lines = read_left_out()
    widths = [found for found, _ in unlisted_widths(lines).values()] + [device_width(lines)[0]]
    for found in widths:
        assert 0.85 <= found.held / found.tested <= 0.95


def test_the_page_is_of_todays_rows_and_says_what_they_do() -> None:
    lines = read_left_out()
    rows = [*load_rows(), *requests.rows()]
    text = page(rows, lines)
    assert text == (ROOT / PAGE).read_text("utf-8"), "run `make accuracy`"
    sizes = [one.gm for one in equal_runs(rows, lines)]
    assert f"{min(sizes):.2f} to {max(sizes):.2f}" in text
    sides = list(between(lines))
    assert (sum(after < before for _, before, after, _ in sides), len(sides)) == (8, 11)
    near = [one for one in lines if one["release"] == "sglang@0.4" and one["how"] == "neighbour"]
    far = [one for one in near if float(one["log_ratio"]) < -0.6]
    assert (len(far), {one["model"] for one in far}) == (3, {"Qwen_Qwen3-235B-A22B"})
    assert f"it is {gm(float(one['log_ratio']) for one in near if one not in far):.2f} by 0.5" in text
    assert f"{math.exp(-sum(float(one['log_ratio']) for one in far) / 3):.1f} times too fast" in text
    assert f"at {load_release('vllm', '0.5-cdna3').constants['flops_scale'].value:.2g} of" in text
