from amc_tf.cli.text import result_table


def network(top1, latency_ms):
    return {
        "top1": top1, "top5": 1.0, "macs": 1e6, "params": 1000, "tflite_bytes": 4000, "latency_ms": latency_ms
    }  # fmt: skip


def times(median, **others):
    return {"median": median, "p5": median - 0.1, "p95": median + 0.1, "noise": None, **others}


def test_the_table_tells_noise_and_what_is_predicted_and_leaves_out_what_could_not_be_timed():
    table = result_table(
        {
            "baseline": network(0.9, times(2.0, noise=0.0123)),
            "pruned": network(0.8, times(1.0, predicted=True)),
            "int8_baseline": network(0.9, None),
            "int8": network(0.8, times(0.5)) | {"not_timed": "Until a phone was there."},
        }
    )
    header, original, found, original8, found8 = table.splitlines()
    assert header.split()[-4:] == ["latency", "(p5–p95)", "noise", "speed-up"]
    assert original.endswith("2.000 ms (1.900–2.100)      1.2 %    1.00 ×")
    assert found.endswith("1.000 ms (0.900–1.100)  predicted    2.00 ×")
    assert original8.endswith("4.0 kB")
    assert found8.endswith("0.500 ms (0.400–0.600)")


def test_networks_that_could_not_be_timed_stand_below_with_the_reason():
    refused = {"not_timed": "The table has timed float32 networks only."}
    table = result_table(
        {
            "baseline": network(0.9, times(2.0)),
            "pruned": network(0.8, None) | {"not_timed": "The phone has no room."},
            "int8_baseline": network(0.9, None) | refused,
            "int8": network(0.8, None) | refused,
        }
    )
    assert table.splitlines()[5:] == [
        "",
        "Found plan: could not be timed. The phone has no room.",
        "Original, int8: could not be timed. The table has timed float32 networks only.",
        "Found plan, int8: could not be timed. The table has timed float32 networks only.",
    ]
