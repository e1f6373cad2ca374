"""The files that the pages speak of."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import pytest
from PIL import Image

import amc_tf
from amc_tf.device import host_meter
from amc_tf.plan import PruningPlan
from tests.docs.in_small import FakeHost, run, small
from tests.trained import make_classifier, make_data


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages speak of; the model takes images of 8x8 pixels."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("model.keras", "slim.keras"):
        make_classifier(keras).save(folder / name)
    PruningPlan({}, {}).save(folder / "plan.json")  # by which slim.keras was made of model.keras
    keras.applications.MobileNet(weights=None).save(folder / "mobilenet.keras")
    parts = {
        "photos/train": make_data(240, 0),
        "photos/val": make_data(100, 1),
        "more-photos": make_data(9, 2),
    }
    for part, data in parts.items():
        for index, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
            path = folder / part / str(label) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return folder


@pytest.fixture(scope="session")
def workplace(files: Path) -> Path:
    """The same with what other commands have made: networks, a run, a table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(files)
        patch.setattr(amc_tf, "HostMeter", FakeHost)  # first: the package remembers what the module has
        patch.setattr(host_meter, "HostMeter", FakeHost)
        run("convert", "model.keras", "--out", "model.tflite", "--overwrite")
        shutil.copy("model.tflite", "slim.tflite")
        run(
            "table",
            "build",
            "model.keras",
            "--networks=3",
            "--out",
            "phone.json",
            "--meter",
            "host",
            "--overwrite",
        )
        compress = "compress model.keras --data photos/ --budget macs=0.5 --meter none --out".split()
        for out in ("runs/photos", "runs/table"):
            run(*small(*compress, out))
    return files


@pytest.fixture
def at_work(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workplace as the working folder."""
    folder = tmp_path / "work"
    shutil.copytree(workplace, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data home"))
    monkeypatch.setattr(amc_tf, "HostMeter", FakeHost)
    monkeypatch.setattr(host_meter, "HostMeter", FakeHost)
    return folder
