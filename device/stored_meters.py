"""Meters that keep their answers in a measurement store, and one that answers from it."""

from __future__ import annotations

import hashlib

from amc_tf.device.latency import Latency, LatencyMeter
from amc_tf.device.store import Measurement, MeasurementStore, utc_now


class RecordingMeter:
    """A `LatencyMeter` that keeps every answer in a store.

    Attributes:
        name: Name of the meter behind it.
        runs_elsewhere: That of the meter behind it.
    """

    def __init__(self, meter: LatencyMeter, store: MeasurementStore) -> None:
        """Puts a store behind a meter.

        Args:
            meter: The meter to ask.
            store: Where answers are kept; its caller closes it.
        """
        self.name = meter.name
        self.runs_elsewhere = meter.runs_elsewhere
        self._meter = meter
        self._store = store

    def fingerprint(self) -> str:
        """Returns the fingerprint of the meter behind it."""
        return self._meter.fingerprint()

    def with_reference(self, tflite: bytes) -> RecordingMeter:
        """Returns a meter over the same store whose measurements are made beside this network."""
        return RecordingMeter(self._meter.with_reference(tflite), self._store)

    def measure(self, tflite: bytes) -> Latency:
        """Times a network and stores the answer.

        Args:
            tflite: The contents of a `.tflite` file.

        Raises:
            MeasurementError: The meter cannot time it; nothing is stored.
            RunFolderError: The store cannot be written.
        """
        latency = self._meter.measure(tflite)
        sha256 = hashlib.sha256(tflite).hexdigest()
        self._store.put(Measurement(sha256, self.fingerprint(), self.name, latency, utc_now()))
        return latency


class CachedMeter:
    """A `LatencyMeter` that measures each network once and then answers from a store.

    Attributes:
        name: Name of the meter behind it.
        runs_elsewhere: That of the meter behind it.
        num_measured: How many networks the meter behind it has timed.
        num_cached: How many answers came from the store.
    """

    def __init__(self, meter: LatencyMeter, store: MeasurementStore) -> None:
        """Puts a store in front of a meter.

        Args:
            meter: The meter to ask for networks that the store does not know.
            store: Where answers are looked up and kept; its caller closes it.
        """
        self.name = meter.name
        self.runs_elsewhere = meter.runs_elsewhere
        self.num_measured = 0
        self.num_cached = 0
        self._meter = meter
        self._recording = RecordingMeter(meter, store)
        self._store = store

    def fingerprint(self) -> str:
        """Returns the fingerprint of the meter behind it."""
        return self._meter.fingerprint()

    def with_reference(self, tflite: bytes) -> CachedMeter:
        """Returns a meter over the same store whose measurements are made beside this network."""
        return CachedMeter(self._meter.with_reference(tflite), self._store)

    def measure(self, tflite: bytes) -> Latency:
        """Returns the stored latency of a network with this content, measuring it first if there is none.

        Args:
            tflite: The contents of a `.tflite` file.

        Raises:
            MeasurementError: The meter cannot time it; nothing is stored.
            RunFolderError: The store cannot be read or written.
        """
        stored = self._store.get(hashlib.sha256(tflite).hexdigest(), self.fingerprint())
        if stored is not None:
            self.num_cached += 1
            return stored
        latency = self._recording.measure(tflite)
        self.num_measured += 1
        return latency
