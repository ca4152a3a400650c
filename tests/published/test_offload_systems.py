"""Offloading systems against published runs: the order of systems, and how far each is from its rows.

Sources: FlexGen paper (arXiv 2303.06865), Tables 2 and 4 and the figure of throughput; ZeRO-Inference blog (DeepSpeed
2022) and its comparison with FlexGen (DeepSpeedExamples 2023); transformers-bloom-inference. The rows ship with their
sources in calibrate/measurements.
"""

import pytest

from calibrate.evidence.published import load_measurements
from calibrate.evidence.settings import run_of, scenario_of
from calibrate.validate.scoreboard import compare, validate
from llm_perf.analysis.inference import predict_inference

ROWS = {row.row_id: row for row in load_measurements()}

# FlexGen paper, Table 2: tokens/s per T4, 32 tokens out: accelerate, zero_inference, petals, flexgen, flexgen with
# compression. (model, prompt): {row: tokens/s per GPU as printed}
TABLE_2 = {
    ("opt-6.7b", 512): {1: 25.12, 4: 9.28, 14: 8.25, 7: 25.26, 10: 29.12},
    ("opt-30b", 512): {2: 0.62, 5: 0.60, 15: 2.84, 8: 7.32, 11: 8.70},
    ("opt-175b", 512): {3: 0.01, 6: 0.01, 16: 0.08, 9: 0.69, 12: 1.12},
    ("opt-6.7b", 1024): {17: 13.01, 20: 4.59, 29: 6.56, 23: 13.72, 26: 13.18},
    ("opt-30b", 1024): {18: 0.31, 21: 0.29, 30: 1.51, 24: 3.50, 27: 3.98},
    ("opt-175b", 1024): {31: 0.06, 25: 0.35, 28: 0.42},
}


# Pairs (faster, slower) that come out the other way, and why.
KNOWN_MISSES = {
    # 20 batches of 16: host time per batch comes out too large; the README's 8.38 for 8 batches of 64 is met.
    (11, 8),
    # Petals at its stated 5 ms of latency is too fast on several GPUs: docs/systems/petals.md.
    (24, 30),
    (27, 30),
}


@pytest.fixture(scope="module")
def zero():
    return validate("zero_inference")


@pytest.fixture(scope="module")
def accelerate():
    return validate("accelerate")


@pytest.mark.parametrize("column", TABLE_2, ids=str)
def test_the_order_of_systems_in_each_column_of_table_2_is_right(column):
    """Values within 10 % of each other may come out either way, since that is what predictions are off by."""
    found = [row for row_id in TABLE_2[column] if (row := compare(ROWS[row_id])).predicted is not None]
    assert len(found) >= 3
    for faster in found:
        for slower in found:
            pair = (faster.run.row_id, slower.run.row_id)
            if per_gpu(faster, "measured") > 1.1 * per_gpu(slower, "measured") and pair not in KNOWN_MISSES:
                assert per_gpu(faster, "predicted") > per_gpu(slower, "predicted"), pair


def per_gpu(row, what):
    return getattr(row, what) / row.run.num_gpus


@pytest.mark.parametrize("column", TABLE_2.values(), ids=map(str, TABLE_2))
def test_the_rows_are_those_of_table_2(column):
    for row_id, printed in column.items():
        assert ROWS[row_id].throughput_tokens_per_s / ROWS[row_id].num_gpus == pytest.approx(printed)


def test_zero_inference_is_within_a_geometric_mean_of_1_10(zero):
    assert zero.systems()["zero_inference"]["gm"] <= 1.10
    for name in ("offload-cpu", "offload-nvme"):
        group = zero.classes()[name]
        assert group["covered"] == group["rows"]
        assert group["gm"] <= 1.10
        assert group["rank_correlation"] >= 0.95


def test_accelerate_is_within_a_geometric_mean_of_1_15(accelerate):
    assert accelerate.systems()["accelerate"]["gm"] <= 1.15
    assert accelerate.systems()["accelerate"]["rank_correlation"] >= 0.95
    for group in accelerate.classes().values():
        assert group["covered"] == group["rows"]
        assert group["gm"] <= 1.15


def test_every_zero_inference_row_is_predicted_or_left_out_with_a_reason(zero):
    assert all(row.predicted is not None for row in zero.rows)
    # FlexGen paper, Table 3: four T4 on four machines; the table does not say where the weights were.
    assert zero.excluded["the source does not state where the weights were"] == 3
    assert {44, 45, 46}.isdisjoint(row.run.row_id for row in zero.rows)


def test_prefetching_helps_nvme_and_not_cpu():
    """ZeRO-Inference blog, Table 3: 43 to 43 token/s from CPU, 30 to 34 from NVMe, OPT-30B on one V100."""
    without_cpu, with_cpu = (compare(ROWS[row]).predicted for row in (176, 177))
    without_nvme, with_nvme = (compare(ROWS[row]).predicted for row in (178, 179))
    assert with_cpu == pytest.approx(without_cpu)
    assert without_nvme / with_nvme == pytest.approx(34 / 30, rel=0.05)


def test_more_gpus_scale_as_measured_on_cpu_and_less_on_nvme():
    """ZeRO-Inference blog, Table 4, OPT-30B per GPU: 43, 77, 120 token/s from CPU; 34, 51, 72 from NVMe."""
    for rows, printed in (((188, 189, 190), (43, 77, 120)), ((191, 192, 193), (34, 51, 72))):
        for row_id, per_gpu in zip(rows, printed, strict=True):
            found = compare(ROWS[row_id])
            batch_per_gpu = ROWS[row_id].batch_size / ROWS[row_id].num_gpus
            assert batch_per_gpu / found.predicted == pytest.approx(per_gpu, rel=0.12)


def test_petals_needs_a_tenth_of_a_second_per_message_to_explain_its_rows():
    """FlexGen paper, Table 2, rows 15 and 16: stated 5 ms; docs/systems/petals.md gives the figures."""
    for row_id in (15, 16):
        scenario = scenario_of(run_of(ROWS[row_id]))
        measured = ROWS[row_id].throughput_tokens_per_s
        stated = predict_inference(scenario)
        slow = predict_inference(scenario.replace(constants=(("hop_latency_ms", 120.0),)))
        assert slow.total_throughput_tokens_per_s < measured < stated.total_throughput_tokens_per_s


def _data_sheet_only(scenario):
    """No rate that was fitted to runs: copies and disks at the ratios and rates that their data sheets give.

    The A6000 workstation's source states no memory bandwidth; 8 channels of DDR4-3200 are assumed.
    """
    host, disk = scenario.host, scenario.host.disk
    rates = dict.fromkeys(
        ("cpu_attention_kv", "pinned_h2d", "pinned_d2h", "pageable_h2d", "growing_slice_h2d", "fresh_d2h")
    )
    bare = disk and disk.replace(direct_read=None, buffered_read=None, mmap_read=None)
    bandwidth = host.memory_bandwidth_gb_per_s_per_socket or 204.8
    return scenario.replace(
        host=host.replace(
            copies={},
            layer_overhead_ms={},
            disk=bare,
            memory_bandwidth_gb_per_s_per_socket=bandwidth,
            **rates,
        )
    )


def test_without_any_fitted_rate_zero_inference_stays_within_1_20():
    found = validate("zero_inference", change=_data_sheet_only)
    assert found.systems()["zero_inference"]["gm"] <= 1.20
    assert all(group["gm"] <= 1.20 for group in found.classes().values())


# What was fitted per machine: page-locked rate over the link's, host time per layer in ms (hardware_specs/hosts).
MACHINES = {
    "T4-16GB": (9.5 / 15.75, 6.1),
    "V100-SXM2-32GB": (11.3 / 15.75, 12.2),
    "RTX A6000-48GB": (27 / 31.5, 2.5),
}


def test_with_the_constants_of_the_other_machines_zero_inference_stays_within_1_20():
    ratios = []
    for left_out in MACHINES:
        (first, first_ms), (second, second_ms) = (MACHINES[name] for name in MACHINES if name != left_out)
        constants = (
            ("pinned_link_ratio", (first * second) ** 0.5),
            ("layer_overhead_ms", (first_ms * second_ms) ** 0.5),
        )
        found = validate(
            "zero_inference",
            left_out,
            lambda scenario, constants=constants: _data_sheet_only(scenario).replace(constants=constants),
        )
        ratios += [row.ratio for row in found.rows if row.ratio is not None]
    product = 1.0
    for ratio in ratios:
        product *= ratio ** (1 / len(ratios))
    assert len(ratios) == 56
    assert product <= 1.20
