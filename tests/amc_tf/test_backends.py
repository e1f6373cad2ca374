"""Facts about fine-tuning with other backends of Keras: it does what it does with TensorFlow."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.markdown import ROOT

LONGEST_S = 900.0


def finetuned(backend, out):
    ended = subprocess.run(
        [sys.executable, "-m", "tests.backends", str(out)],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found.pop("backend") == backend
    return found


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_fine_tuning_finds_what_it_finds_with_tensorflow(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    found, expected = (finetuned(name, tmp_path / f"{name}.json") for name in (backend, "tensorflow"))
    assert found.keys() == expected.keys() == {"freezes=False", "freezes=True"}
    for training, numbers in expected.items():
        for name, values in numbers.items():
            np.testing.assert_allclose(found[training][name], values, rtol=1e-3, err_msg=f"{training} {name}")
