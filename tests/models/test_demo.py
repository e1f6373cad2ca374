"""The shipped network: it loads, it is small, it is accurate."""

import zipfile
from pathlib import Path

import numpy as np

from amc_tf import models
from amc_tf.data import load_data
from amc_tf.evaluate import accuracy
from amc_tf.models.mobilenet import demo_mobilenet
from amc_tf.models.zoo import load_zoo_model


def test_shipped_network_reads_the_digits() -> None:
    model = load_zoo_model("demo")
    _, validation = load_data("digits", model.input_shape[1:])
    assert len(validation) == 359
    assert accuracy(model.predict_on_batch, validation, input_range="-1..1").top1 >= 0.99


def test_shipped_network_is_what_the_builder_builds() -> None:
    model, fresh = load_zoo_model("demo"), demo_mobilenet()
    assert model.name == fresh.name == "demo_mobilenet"
    assert model.count_params() == fresh.count_params() == 215_146
    assert [layer.name for layer in model.layers] == [layer.name for layer in fresh.layers]
    assert all(np.all(np.isfinite(weight)) for weight in model.get_weights())


def test_shipped_file_is_small_and_holds_no_optimizer() -> None:
    file = Path(next(iter(models.__path__))) / "demo_mobilenet.keras"
    assert file.stat().st_size < 1_200_000
    assert not load_zoo_model("demo").compiled
    with zipfile.ZipFile(file) as archive, archive.open("model.weights.h5") as stream:
        assert b"optimizer" not in stream.read()
