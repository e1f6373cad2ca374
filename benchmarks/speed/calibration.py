"""Calibration on 500 pictures of 224x224: its time, and the memory of the whole process."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence

import keras

from amc_tf.calibration import calibrate
from amc_tf.data import to_input_range
from amc_tf.network import NetworkFunction
from benchmarks.speed import networks
from benchmarks.speed.figures import Figure, Options, seconds

_MAX_GIB = {"mobilenet": 3.0, "vgg16": 8.0}
_BUILDERS = {"mobilenet": keras.applications.MobileNet, "vgg16": keras.applications.VGG16}
_KIB_PER_GIB = 2**20


def measure(options: Options) -> list[Figure]:
    """Calibrates each network in a process of its own."""
    figures = []
    for name, max_gib in _MAX_GIB.items():
        command = [sys.executable, "-m", "benchmarks.speed.calibration", name]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        figures += [
            Figure(f"calibration.{name}_seconds", found["seconds"], "s"),
            Figure(f"calibration.{name}_gib", found["gib"], "GiB", limit=max_gib),
        ]
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Calibrates one network with random weights on noise, and prints seconds and peak memory."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("network", choices=_BUILDERS)
    network = NetworkFunction(_BUILDERS[parser.parse_args(arguments).network](weights=None))
    images = networks.noise(networks.NUM_IMAGES, 224)
    taken = seconds(lambda: calibrate(network, to_input_range(images, networks.INPUT_RANGE), seed=0))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB_PER_GIB
    print(json.dumps({"seconds": taken, "gib": peak}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
