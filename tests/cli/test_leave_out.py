"""llm-perf validate --leave-out, as a user meets it."""

import math
import subprocess
import sys

import pytest

from calibrate.validate import transfer as transfer_module


@pytest.fixture(scope="module", autouse=True)
def asked_once():
    """Which rows a constant changes, and the fit to all, are the same whatever is left out: found once for the same rows."""
    known, fits = {}, {}

    def depends(parameters, cases, predict):
        key = repr((parameters, [case.scenario for case in cases]))
        if key not in known:
            known[key] = depends_of(parameters, cases, predict)
        return known[key]

    def fit(parameters, cases, targets, predict, **how):
        key = repr((parameters, [(case.scenario, case.compared.quantity) for case in cases], targets, how))
        if key not in fits:
            fits[key] = fit_of(parameters, cases, targets, predict, **how)
        return fits[key]

    depends_of, fit_of = transfer_module._depends, transfer_module.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer_module, "_depends", depends)
        patch.setattr(transfer_module, "fit", fit)
        yield


@pytest.fixture(scope="module")
def shown():
    """Accelerate, whose rows are the quickest to fit."""
    return transfer_module.transfer("accelerate", "model").as_dict()


def test_every_row_is_predicted_by_a_fit_without_its_model(shown):
    assert sum(group["rows"] for group in shown["groups"]) == len(shown["rows"])
    for group in shown["groups"]:
        assert group["fitted_rows"] + group["rows"] == len(shown["rows"])
        assert math.isfinite(group["gm"])


def test_a_left_out_row_has_an_interval_where_its_class_has_another_group(shown):
    models_of = {}
    for row in shown["rows"]:
        models_of.setdefault(row["class"], set()).add(row["model"])
    for row in shown["rows"]:
        assert (row["interval"] is not None) == (len(models_of[row["class"]]) > 1)
    # The constants that ship know these rows, so that nothing honest can be said of an interval around them.
    assert shown["classes"]["all"]["shipped"]["interval_coverage"] is None


def test_the_report_is_80_columns_wide(shown):
    from llm_perf.report.transfer_text import transfer_report

    text = transfer_report(shown)
    assert max(map(len, text.splitlines())) <= 80
    for name in ("offload-cpu", "facebook/opt-30b", "driver_link_ratio", "left out"):
        assert name in text


def test_the_command_prints_one_object(llm_perf):
    found = llm_perf("validate", "--system", "accelerate", "--leave-out", "machine", "--json").json
    assert found["schema_version"] == 1
    assert {group["left_out"] for group in found["groups"]} >= {"gcp-t4"}
    assert set(found["classes"]["all"]) == {"shipped", "no_fit", "refit", "left_out"}


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (("--leave-out", "machine"), "--system"),
        (("--system", "accelerate", "--gpu", "t4", "--leave-out", "machine"), "--gpu"),
        (("--system", "accelerate", "--leave-out", "planet"), "planet"),
        (("--system", "zero_inference", "--leave-out", "family"), "one family"),
        (("--system", "deepspeed_inference", "--leave-out", "machine"), "no published run"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_left_out_ends_with_one_line_and_exit_2(llm_perf, arguments, mentioned):
    shown = llm_perf("validate", *arguments)
    assert shown.code == 2
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert mentioned in shown.err


def test_without_scipy_one_line_names_the_extra():
    program = (
        "import sys; sys.modules['scipy'] = None\n"
        "from llm_perf.cli.main import main\n"
        "sys.exit(main(['validate', '--system', 'accelerate', '--leave-out', 'machine']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "llm-perf[search]" in done.stderr
