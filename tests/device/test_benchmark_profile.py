"""Per-operator profiles: every sample that has one, both forms of the table, delegates, damage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amc_tf.device.benchmark_profile import OperatorTime, parse_profile
from amc_tf.errors import MeasurementError
from tests.benchmark_samples import COMPILED_MODEL_STDERR, SAME_EXAMPLES_EACH_TIME, damaged_text, output, text

SAMPLES = {
    "opprof": output("opprof"),
    "opprof.csv": text("benchmark_model/opprof.csv"),
    "2022/opprof": output("2022/opprof"),
    "mobilenet_run1": text("pixel1/mobilenet_run1.txt"),
    "0.75mobilenet_run1": text("pixel1/0.75mobilenet_run1.txt"),
    "0.5flops_run1": text("pixel1/0.5flops_run1.txt"),
    "compiled model": COMPILED_MODEL_STDERR,
}
# Number of operators, average of a run by the tool's own "Timings (microseconds)", in ms.
TOTALS = {
    "opprof": (34, 14.2794),
    "opprof.csv": (34, 17.3386),
    "2022/opprof": (34, 1529.54),
    "mobilenet_run1": (31, 123.295),
    "0.75mobilenet_run1": (31, 73.1921),
    "0.5flops_run1": (30, 68.3207),
}
HEADER = "[node type]\t[first]\t[avg ms]\t[%]\t[cdf%]\t[mem KB]\t[times called]\t[Name]"


def table(*rows: tuple[str, float, str]) -> str:
    """Returns a run-order table of kind, share in percent (also its time in ms) and name."""
    lines, cumulated = ["====== Run Order ======", f"\t{HEADER}"], 0.0
    for kind, percent, name in rows:
        cumulated += percent
        lines.append(f"\t   {kind}\t{percent}\t{percent}\t{percent}%\t{cumulated}%\t0.0\t1\t{name}")
    return "\n".join([*lines, "", "====== Top by Computation Time ======", ""])


def classic(regular: str) -> str:
    initialization = table(("ModifyGraphWithDelegate", 100.0, "ModifyGraphWithDelegate/0"))
    return (
        f"INFO: Profiling Info for Benchmark Initialization:\n{initialization}\n"
        f"INFO: Operator-wise Profiling Info for Regular Benchmark Runs:\n{regular}"
    )


@pytest.mark.parametrize("sample", TOTALS)
def test_operators_of_a_sample_add_up_to_its_own_total(sample: str) -> None:
    operators = parse_profile(SAMPLES[sample])
    num_operators, total_ms = TOTALS[sample]
    assert len(operators) == num_operators
    assert sum(operator.mean_ms for operator in operators) == pytest.approx(total_ms, rel=1e-3)
    assert sum(operator.share for operator in operators) == pytest.approx(1.0, abs=1e-3)
    assert {operator.times_called for operator in operators} == {1}


def test_text_table_of_xnnpack_is_read() -> None:
    operators = parse_profile(SAMPLES["opprof"])
    assert operators[0] == OperatorTime(
        kind="Convolution (NHWC, F32) IGEMM",
        name="Delegate/Convolution (NHWC, F32) IGEMM:0",
        mean_ms=0.695,
        first_ms=0.701,
        share=pytest.approx(0.0487),
        memory_kb=0.0,
        times_called=1,
    )
    assert operators[26].mean_ms == 1.329 and operators[26].first_ms == 1.359
    assert [operator.kind for operator in operators[29:]] == [
        "SHAPE",
        "STRIDED_SLICE",
        "PACK",
        "RESHAPE",
        "Softmax (NC, F32)",
    ]


def test_csv_has_the_operators_of_the_text_table_with_commas_in_their_names() -> None:
    rows, columns = parse_profile(SAMPLES["opprof"]), parse_profile(SAMPLES["opprof.csv"])
    assert [(row.kind, row.name) for row in rows] == [(row.kind, row.name) for row in columns]
    assert columns[1].name == "Delegate/Convolution (NHWC, F32) DWConv:1"
    assert (columns[1].first_ms, columns[1].mean_ms) == (0.415, 0.34607)
    assert columns[1].share == pytest.approx(0.0199595)


def test_the_start_column_of_older_builds_is_left_out() -> None:
    first = parse_profile(SAMPLES["mobilenet_run1"])[1]
    assert (first.kind, first.name) == (
        "DEPTHWISE_CONV_2D",
        "[MobilenetV1/MobilenetV1/Conv2d_1_depthwise/Relu6]",
    )
    assert (first.first_ms, first.mean_ms) == (2.288, 2.336)
    first = parse_profile(SAMPLES["2022/opprof"])[0]
    assert (first.kind, first.first_ms, first.mean_ms) == ("CONV_2D", 53.675, 34.661)
    assert first.name.endswith("/conv1_relu_1/Relu6;mobilenet_1.00_224_1/conv1_1/convolution]:0")


def test_what_runs_once_before_all_inferences_is_left_out() -> None:
    operators = parse_profile(SAMPLES["compiled model"])
    assert [operator.name for operator in operators] == [
        "LiteRT::Run[buffer registration]/0",
        "Delegate/Fully Connected (NC, PF32) GEMM:1",
        "LiteRT::Run[Buffer sync]/0",
    ]
    assert operators[1].mean_ms == 0.382


def test_inner_operators_take_the_place_of_their_delegate_node() -> None:
    outer = table(
        ("PAD", 10.0, "[pad]:0"), ("TfLiteXNNPackDelegate", 80.0, "[out]:3"), ("SHAPE", 10.0, "[s]:4")
    )
    inner = table(("Convolution", 25.0, "Delegate/Convolution:0"), ("Softmax", 75.0, "Delegate/Softmax:1"))
    operators = parse_profile(classic(f"{outer}\nDelegate internal: \n{inner}"))
    assert [operator.kind for operator in operators] == ["PAD", "Convolution", "Softmax", "SHAPE"]
    assert [operator.share for operator in operators] == pytest.approx(
        [10 / 120, 25 / 120, 75 / 120, 10 / 120]
    )


def test_a_delegate_node_beside_its_own_operators_is_not_counted_twice() -> None:
    rows = (("Convolution", 50.0, "Delegate/Convolution:0"), ("TfLiteXNNPackDelegate", 50.0, "[out]:3"))
    (operator,) = parse_profile(classic(table(*rows)))
    assert (operator.kind, operator.share) == ("Convolution", 1.0)


def test_a_delegate_that_tells_nothing_of_its_inside_stays_one_operator() -> None:
    (operator,) = parse_profile(classic(table(("TfLiteGpuDelegateV2", 100.0, "[out]:64"))))
    assert (operator.kind, operator.mean_ms) == ("TfLiteGpuDelegateV2", 100.0)


@pytest.mark.parametrize("sample", ["opprof", "opprof.csv", "mobilenet_run1"])
def test_line_ends_of_a_terminal_change_nothing(sample: str) -> None:
    assert parse_profile(SAMPLES[sample].replace("\n", "\r\n")) == parse_profile(SAMPLES[sample])


@pytest.mark.parametrize("run", ["default", "opprof_csv", "2022/xnn"])
def test_output_without_a_profile_is_refused(run: str) -> None:
    with pytest.raises(MeasurementError, match="no per-operator profile"):
        parse_profile(output(run))


def test_initialization_alone_is_no_profile() -> None:
    whole = SAMPLES["opprof"]
    with pytest.raises(MeasurementError, match="only the benchmark's initialization"):
        parse_profile(whole[: whole.index("INFO: Operator-wise")])


@pytest.mark.parametrize("sample", ["opprof", "opprof.csv", "mobilenet_run1"])
def test_a_table_that_is_cut_off_is_refused(sample: str) -> None:
    whole = SAMPLES[sample]
    start = whole.rindex("Run Order")
    for length in (200, 1500, 2000, 2031):
        with pytest.raises(MeasurementError, match="cut off or damaged|unknown header"):
            parse_profile(whole[: start + length])


def test_a_damaged_row_is_refused_and_shown() -> None:
    with pytest.raises(
        MeasurementError, match=r"row of the profile cannot be read \('Mean \(ND\) Reduce2, 0\.017, x"
    ):
        parse_profile(SAMPLES["opprof.csv"].replace("0.017, 0.0146667", "0.017, x"))


@SAME_EXAMPLES_EACH_TIME
@given(
    damaged_text(list(SAMPLES.values())) | st.text().map(lambda rows: f"= Run Order =\n\t{HEADER}\n{rows}")
)
def test_a_damaged_profile_gives_operators_or_the_projects_error(damaged: str) -> None:
    try:
        operators = parse_profile(damaged)
    except MeasurementError:
        return
    assert operators and all(operator.mean_ms >= 0 and operator.times_called >= 1 for operator in operators)
