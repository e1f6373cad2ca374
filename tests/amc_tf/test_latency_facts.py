import json

from amc_tf.latency_facts import certainty, meter_facts

PHONE = {
    "kind": "phone",
    "phone": {
        "manufacturer": "Google", "model": "Pixel 8", "soc": "Tensor G3", "android_version": "14", "sdk": 34,
        "build_fingerprint": "google/shiba/14",
    },
    "binary": "0123456789abcdef" * 4,
    "settings": {"num_threads": 4, "delegate": "cpu", "fp16": False, "num_runs": 50},
    "timing": {"min_rounds": 3},
    "mask": "f0",
    "reference": None,
}  # fmt: skip


def at(before_c, after_c, status=0):
    moments = {"before": before_c, "after": after_c}
    return {
        name: {"battery_c": value, "thermal_status": status, "screen_on": False}
        for name, value in moments.items()
    }


def test_a_phone_is_told_as_people_know_it():
    meter = {"name": "Google Pixel 8:cpu:4-thread", "fingerprint": json.dumps(PHONE)}
    latencies = [
        {"median": 3.0, "conditions": at(31.25, 33.0)},
        {"median": 2.0, "conditions": {**at(33.0, 34.5, 1), "phones": [at(36.0, 37.0)]}},
        {"median": 1.0},
    ]
    assert meter_facts(meter, latencies) == {
        "name": "Google Pixel 8:cpu:4-thread",
        "phone": "Google Pixel 8",
        "SoC": "Tensor G3",
        "Android": "14",
        "tool SHA-256": "0123456789ab",
        "threads": 4,
        "delegate": "cpu (XNNPACK)",
        "half precision": "no",
        "cores (mask)": "f0",
        "battery": "31.25–37 °C",
        "thermal status": "0–1",
    }


def test_a_phone_that_tells_little_is_told_as_far_as_it_is_known():
    fingerprint = {"kind": "phone", "phone": {"model": "sdk_gphone"}, "settings": {}, "mask": None}
    facts = meter_facts(
        {"name": "x", "fingerprint": json.dumps(fingerprint)}, [{"conditions": at(None, None, 2)}]
    )
    assert facts == {"name": "x", "phone": "sdk_gphone", "half precision": "no", "thermal status": "2"}


def test_of_another_meter_the_fingerprint_is_told_whole():
    fingerprint = {"kind": "host", "cpu": "Xeon", "num_threads": 1, "reference": None}
    facts = meter_facts({"name": "host:1-thread", "fingerprint": json.dumps(fingerprint)}, [])
    assert facts == {"name": "host:1-thread", "kind": "host", "cpu": "Xeon", "num_threads": 1}
    assert meter_facts({"name": "x", "fingerprint": "no JSON"}, []) == {"name": "x", "fingerprint": "no JSON"}
    assert meter_facts({}, []) == {}


def test_a_latency_says_how_sure_it_is():
    assert certainty({"median": 2.0, "predicted": True, "noise": 0.1}) == "predicted, not timed"
    assert certainty({"median": 2.0, "predicted": False, "noise": 0.0123}) == "noise 1.2 %"
    assert certainty({"median": 2.0, "noise": None}) == ""
