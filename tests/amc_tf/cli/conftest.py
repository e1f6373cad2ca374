"""A tiny trained model and its data as files, and the command line as a function."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from amc_tf.cli import main
from tests.adbd import Daemon
from tests.trained import make_classifier, make_data


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.keras, a classifier of 8x8 images, and data.npz, on which it is right."""
    folder = tmp_path_factory.mktemp("files")
    make_classifier(keras).save(folder / "tiny.keras")
    train, test = make_data(240, 0), make_data(100, 1)
    np.savez(
        folder / "data.npz",
        x_train=train.images,
        y_train=train.labels,
        x_test=test.images,
        y_test=test.labels,
    )
    return folder


@pytest.fixture
def amc(
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Outcome]:
    """Runs a command in the folder of `files`, with a home of the test's own for what is kept by user."""
    monkeypatch.chdir(files)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data home")))

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def clean_adbd(adbd: Daemon) -> Iterator[Daemon]:
    """The phone that all tests share, with nothing of ours on it before and after."""
    folder = adbd.tmp / "amc-tf"
    shutil.rmtree(folder, ignore_errors=True)
    yield adbd
    shutil.rmtree(folder, ignore_errors=True)
