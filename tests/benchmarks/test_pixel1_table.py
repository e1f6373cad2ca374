"""Facts about benchmarks/pixel1_table.py."""

import pytest

from amc_tf.device.table import LatencyTable
from benchmarks.pixel1_table import NETWORKS, main, mobilenet_operators

COLUMNS = "\t[node type]\t[start]\t[first]\t[avg ms]\t[%]\t[cdf%]\t[mem KB]\t[times called]\t[Name]"


def log(widths, tail):
    """A log as the tool of 2018 wrote it, of a device of 0.2 ns per multiply-accumulate."""
    operators = mobilenet_operators(widths, tail=tail)
    times = [0.002 + 2e-7 * operator.macs for operator in operators]
    statistics = (
        f"native : benchmark_tflite_model.cc:440 count=200 first=1 curr=1 min={900 * sum(times):.0f} "
        f"max={1100 * sum(times):.0f} avg={1000 * sum(times):.1f} std=500"
    )
    lines = [
        *["native : benchmark_tflite_model.cc:412 Running benchmark for 200 iterations:", statistics] * 2,
        "native : benchmark_tflite_model.cc:108 ============== Run Order ==============",
        COLUMNS,
    ]
    parts = [f"{100 * time / sum(times):.3f}%" for time in times]
    sums = [f"{100 * sum(times[: index + 1]) / sum(times):.3f}%" for index in range(len(times))]
    lines += [
        f"\t{operator.kind}\t0.000\t{time:.3f}\t{time:.3f}\t{parts[index]}\t{sums[index]}\t0.000\t1\t[layer{index}/Relu6]"
        for index, (operator, time) in enumerate(zip(operators, times, strict=True))
    ]
    return "\n".join([*lines, "", "============== Top by Computation Time ==============", COLUMNS, ""])


def test_logs_become_a_table(tmp_path, capsys):
    for (_, name, widths), tail in zip(
        NETWORKS, (["SQUEEZE", "SOFTMAX"], ["SQUEEZE"], ["RESHAPE"]), strict=True
    ):
        (tmp_path / name).write_text(log(widths, tail))
    assert main([str(tmp_path), "--out", str(tmp_path / "pixel1.json")]) == 0
    table = LatencyTable.load(tmp_path / "pixel1.json")
    full = table.samples[0]
    assert [operator.kind for operator in full.operators[-2:]] == ["SQUEEZE", "SOFTMAX"]
    assert full.num_runs == 200 and None not in full.times_ms
    assert full.median_ms == pytest.approx(sum(0.002 + 2e-7 * item.macs for item in full.operators), rel=1e-4)
    assert table.error.largest < 0.02
    assert capsys.readouterr().out.count("predicted from the others") == 3
