"""What the summary of a run tells of its latencies, in words: timed or predicted, how surely, on what."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

PREDICTED = "predicted, not timed"
_DELEGATES = {"cpu": "cpu (XNNPACK)"}


def unit_of(meter: Mapping[str, Any] | None) -> str:
    """Returns what latencies are given in: "ms per image", or "ms per batch of N" of a GPU.

    Args:
        meter: "meter" of the summary.
    """
    try:
        batch_size = json.loads((meter or {})["fingerprint"])["batch_size"]
    except (KeyError, TypeError, ValueError):
        return "ms per image"
    return "ms per image" if batch_size == 1 else f"ms per batch of {batch_size}"


def is_predicted(latency: Mapping[str, Any] | None) -> bool:
    """Tells whether a latency of a summary comes from a table instead of from runs."""
    return bool((latency or {}).get("predicted"))


def certainty(latency: Mapping[str, Any]) -> str:
    """Says how sure a latency of a summary is: that it is predicted, or its noise, or nothing if unknown."""
    if is_predicted(latency):
        return PREDICTED
    noise = latency.get("noise")
    return "" if noise is None else f"noise {percent_of(noise)}"


def percent_of(noise: float) -> str:
    """Writes a relative spread such as 0.0123 as 1.2 %."""
    return f"{100 * noise:.1f} %"


def meter_facts(meter: Mapping[str, Any], latencies: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Lists what timed the networks of a run.

    Args:
        meter: "meter" of the summary.
        latencies: The latencies of its networks.

    Returns:
        Values by what they are called; of a phone what matters to people, of others their whole fingerprint.
    """
    named = {name: value for name, value in meter.items() if name != "fingerprint"}
    try:
        fingerprint = json.loads(meter["fingerprint"])
    except (KeyError, TypeError, ValueError):
        return dict(meter)
    if not isinstance(fingerprint, dict):
        return dict(meter)
    conditions = [latency["conditions"] for latency in latencies if latency.get("conditions")]
    if fingerprint.get("kind") == "phone":
        facts = _phone_facts(fingerprint)
    else:
        facts = {name: value for name, value in fingerprint.items() if name != "reference"}
    return {**named, **facts, **_temperatures(conditions)}


def _phone_facts(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    phone, settings = fingerprint.get("phone") or {}, fingerprint.get("settings") or {}
    delegate = settings.get("delegate")
    facts = {
        "phone": " ".join(str(phone[name]) for name in ("manufacturer", "model") if phone.get(name)),
        "SoC": phone.get("soc"),
        "Android": phone.get("android_version"),
        "tool SHA-256": str(fingerprint.get("binary") or "")[:12],
        "threads": settings.get("num_threads"),
        "delegate": _DELEGATES.get(str(delegate), delegate),
        "half precision": "yes" if settings.get("fp16") else "no",
        "cores (mask)": fingerprint.get("mask"),
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _temperatures(conditions: list[Mapping[str, Any]]) -> dict[str, str]:
    """Returns the spans of the battery's temperature and of Android's thermal status, where known."""
    facts = {}
    for name, key, unit in (("battery", "battery_c", " °C"), ("thermal status", "thermal_status", "")):
        seen = sorted(_seen(conditions, key))
        if seen:
            facts[name] = f"{seen[0]:g}{unit}" if seen[0] == seen[-1] else f"{seen[0]:g}–{seen[-1]:g}{unit}"
    return facts


def _seen(conditions: Iterable[Mapping[str, Any]], key: str) -> Iterator[float]:
    for condition in conditions:
        yield from _seen(condition.get("phones") or (), key)
        for moment in ("before", "after"):
            value = (condition.get(moment) or {}).get(key)
            if isinstance(value, (int, float)):
                yield value
