"""The verb export: from a run to what an Android application takes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from amc_tf.device.convert import TFLiteRunner
from tests.metadata_reader import packed_files, read_metadata
from tests.tflite_files import chain

ROOT = Path(__file__).parents[3]
SETTINGS = (
    "tiny.keras --data=data.npz --meter=none --episodes=4 --search-images=100 --calibration-images=64 "
    "--finetune-epochs=0 --quiet --out"
).split()


@pytest.fixture
def run_folder(tmp_path):
    """A run without int8 network and without names of its 5 classes."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model_float32.tflite").write_bytes(chain([8, 5]))
    summary = {"model": "tiny", "baseline": {}, "input_range": "0..1", "image_dtype": "uint8"}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_the_files_are_listed_and_unknown_names_are_told(amc, run_folder, tmp_path):
    target = tmp_path / "app"
    outcome = amc("export", run_folder, "--android", target)
    assert (outcome.code, outcome.err) == (0, "")
    assert [line.split(maxsplit=1) for line in outcome.out.splitlines()] == [
        [str(target / "model_float32.tflite"), "float32 network with metadata"],
        [str(target / "labels.txt"), "5 classes"],
        [str(target / "ImageClassifier.kt"), "Kotlin for 16x16x3 images, input range 0..1"],
        [],
        ["The", "names of the classes are not known: the labels are their numbers. Give --labels FILE."],
    ]
    assert (target / "labels.txt").read_text() == "0\n1\n2\n3\n4\n"


def test_names_and_range_can_be_given(amc, run_folder, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\nd\ne")
    words = ["export", run_folder, "--labels", names, "--input-range", "-1..1", "--android", tmp_path / "app"]
    outcome = amc(*words)
    assert "not known" not in outcome.out
    tflite = (tmp_path / "app" / "model_float32.tflite").read_bytes()
    assert packed_files(tflite) == {"labels.txt": b"a\nb\nc\nd\ne\n"}
    assert read_metadata(tflite)["mean"] == [127.5] * 3
    refused = amc(*words)
    assert (refused.code, refused.out) == (1, "")
    assert "give --overwrite to replace the files of an earlier export" in refused.err
    assert json.loads(amc(*words, "--overwrite", "--json").out)["class_names"] == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--labels=none.txt"], "There is no file none.txt."),
        (
            ["--input-range=bgr"],
            "The input range is 'bgr', but must be one of -1..1, 0..1, 0..255, imagenet.",
        ),
    ],
)
def test_wrong_values_end_in_one_sentence(amc, run_folder, tmp_path, words, sentence):
    outcome = amc("export", run_folder, "--android", tmp_path / "app", *words)
    assert (outcome.code, outcome.out, outcome.err) == (1, "", f"amc-tf: {sentence}\n")


def test_exporting_loads_no_tensorflow(run_folder, tmp_path):
    code = (
        "import sys\n"
        "from amc_tf.cli import main\n"
        f"main(['export', {str(run_folder)!r}, '--android', {str(tmp_path / 'app')!r}])\n"
        "print([n for n in ('tensorflow', 'keras') if n in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "precisions"),
    [
        (["compress", "--budget=macs=0.5", "--round-to=4"], ["float32", "int8"]),
        (["compress", "--budget=macs=0.5", "--round-to=4", "--stages=2"], ["float32", "int8"]),
        (["sparsify", "--budget=params=0.4"], ["float32"]),
    ],
    ids=["compress", "stages", "sparsify"],
)
def test_every_kind_of_run_can_be_exported(amc, tmp_path, verb, precisions):
    assert amc(verb[0], *SETTINGS, tmp_path / "run", *verb[1:]).code == 0
    result = json.loads(amc("export", tmp_path / "run", "--android", tmp_path / "app", "--json").out)
    assert list(result["models"]) == precisions
    images = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
    for name in result["models"].values():
        found, expected = (
            TFLiteRunner((tmp_path / folder / name).read_bytes()).predict(images) for folder in ("app", "run")
        )
        np.testing.assert_array_equal(found, expected)
        assert read_metadata((tmp_path / "app" / name).read_bytes())["width"] == 8
