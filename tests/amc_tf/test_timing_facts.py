"""Facts about amc_tf/timing_facts.py."""

import pytest

from amc_tf.timing_facts import timing_table, told_apart


def timed(ratio, noise, **facts):
    return {"latency_ms": {"median": 2.0, "ratio": ratio, "noise": noise, "num_runs": 60, **facts}}


def remarks(summary):
    return " ".join(timing_table(summary).remarks)


def test_each_timed_network_has_its_row_and_predicted_ones_have_none():
    summary = {"baseline": timed(1.0034, 0.0482), "pruned": timed(0.43, 0.01, predicted=True)}
    (row,) = timing_table(summary).rows
    assert row["name"] == "Original"
    assert [cell["value"] for cell in row["cells"]] == ["1.003 ×", "4.8 %", "60"]


def test_without_noise_there_is_no_table():
    assert timing_table({"baseline": timed(1.0, None), "pruned": timed(0.5, None)}).rows == ()
    assert timing_table({"baseline": {"latency_ms": None}}).rows == ()


def test_the_original_timed_beside_itself_shows_what_the_method_is_off_by():
    assert "timed beside itself came out at 1.003 ×" in remarks({"baseline": timed(1.003, 0.01)})


@pytest.mark.parametrize(("ratio", "apart"), [(0.43, True), (0.493, False)])
def test_networks_within_the_noise_are_called_equally_fast(ratio, apart):
    summary = {"baseline": timed(1.0, 0.01), "pruned": timed(0.5, 0.02), "uniform": timed(ratio, 0.01)}
    assert told_apart(summary["pruned"]["latency_ms"], summary["uniform"]["latency_ms"]) is apart
    sentence = "The found plan and uniform pruning differ by less than the noise"
    assert (sentence in remarks(summary)) is not apart


def test_a_gain_within_the_noise_is_none():
    summary = {"baseline": timed(1.0, 0.05), "pruned": timed(0.97, 0.02)}
    assert "The found plan and the original differ by less than the noise" in remarks(summary)


def test_fine_tuned_networks_are_compared_where_both_are():
    summary = {"baseline": timed(1.0, 0.01), "finetuned": timed(0.5, 0.02), "pruned": timed(0.8, 0.02)}
    summary["uniform"] = timed(0.5, 0.02)
    assert "uniform" not in remarks(summary)
    assert "uniform" in remarks({**summary, "uniform_finetuned": timed(0.5, 0.02)})
