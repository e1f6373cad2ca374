"""Facts about amc_tf/android.py, on a made-up run folder with the networks of a trained classifier."""

import json
import re

import keras
import numpy as np
import pytest

import amc_tf
from amc_tf.android import export_android, read_class_names
from amc_tf.device.convert import TFLiteRunner, to_tflite
from amc_tf.errors import DataError, ModelError, RunFolderError, SettingsError
from amc_tf.image_data import INPUT_RANGES, to_input_range
from tests.metadata_reader import packed_files, read_metadata
from tests.trained import RANGE, make_classifier, make_data

NAMES = ["cat", "dog", "Häher", "a b"]
SUMMARY = {
    "model": "models/tiny.keras",
    "baseline": {"top1": 0.99},
    "finetuned": {"top1": 0.875},
    "int8": {"top1": 0.8},
    "int8_qat": {"top1": 0.85},
    "int8_written": "int8_qat",
    "input_range": RANGE,
    "image_dtype": "uint8",
    "class_names": NAMES,
}
IMAGES = to_input_range(make_data(8, 1).images, RANGE)


@pytest.fixture(scope="module")
def networks():
    """The files of a run by name."""
    model = make_classifier(keras)
    int8 = to_tflite(model, precision="int8", calibration_images=IMAGES)
    return {"model_float32.tflite": to_tflite(model), "model_int8.tflite": int8}


@pytest.fixture
def make_run(networks, tmp_path):
    """Writes a run folder whose summary has other entries; those that are None are left out."""

    def make(*, files=tuple(networks), **entries):
        folder = tmp_path / "run"
        folder.mkdir()
        summary = {name: value for name, value in {**SUMMARY, **entries}.items() if value is not None}
        (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        for name in files:
            (folder / name).write_bytes(networks[name])
        return folder

    return make


def test_the_folder_holds_networks_labels_and_kotlin(make_run, tmp_path):
    export = amc_tf.export_android(make_run(), tmp_path / "an" / "app")
    assert export.files == ("model_float32.tflite", "model_int8.tflite", "labels.txt", "ImageClassifier.kt")
    assert {path.name for path in (tmp_path / "an" / "app").iterdir()} == set(export.files)
    assert (export.image_size, export.input_range, export.num_classes) == ((8, 8, 3), RANGE, 4)
    assert json.loads(json.dumps(export.to_json()))["folder"] == str(tmp_path / "an" / "app")


def test_exported_networks_answer_as_those_of_the_run(make_run, networks, tmp_path):
    export_android(make_run(), tmp_path / "app")
    for name, content in networks.items():
        found = TFLiteRunner((tmp_path / "app" / name).read_bytes()).predict(IMAGES)
        np.testing.assert_array_equal(found, TFLiteRunner(content).predict(IMAGES))


def test_metadata_tell_of_the_run(make_run, tmp_path):
    export_android(make_run(), tmp_path / "app")
    for name, words in {"float32": "float32. Top-1 accuracy of the run: 87.5%", "int8": "85.0%"}.items():
        found = read_metadata((tmp_path / "app" / f"model_{name}.tflite").read_bytes())
        assert found["name"] == "tiny"
        assert "Tells 4 classes of 8x8x3 images apart" in found["description"]
        assert words in found["description"]
        assert (found["mean"], found["std"]) == ([127.5] * 3, [127.5] * 3)


def test_labels_are_the_names_that_the_run_knows(make_run, tmp_path):
    export = export_android(make_run(), tmp_path / "app")
    assert export.class_names == tuple(NAMES)
    labels = (tmp_path / "app" / "labels.txt").read_bytes()
    assert labels.decode() == "cat\ndog\nHäher\na b\n"
    for name in export.models.values():
        assert packed_files((tmp_path / "app" / name).read_bytes()) == {"labels.txt": labels}


def test_labels_are_numbers_where_names_are_not_known(make_run, tmp_path):
    export = export_android(make_run(class_names=None), tmp_path / "app")
    assert export.class_names is None
    assert (tmp_path / "app" / "labels.txt").read_text() == "0\n1\n2\n3\n"


def test_names_that_are_given_come_first(make_run, tmp_path):
    export = export_android(make_run(), tmp_path / "app", class_names=["d", "c", "b", "a"])
    assert export.labels == ("d", "c", "b", "a")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "b"], "There are 2 names of classes, but the network has 4 outputs"),
        (["a", "b", " ", "d"], "The name of class 2 is ' ', but must be one line"),
        (["a", "b\nc", "d", "e"], r"The name of class 1 is 'b\\nc', but must be one line"),
        (
            ["a\n", "b\n", "c\n", "d\n"],
            r"The name of class 0 is 'a\\n', but must be one line",
        ),  # of readlines()
        ("abcd", "are 'abcd', but must be a sequence"),
    ],
)
def test_names_that_fit_no_file_of_labels_are_refused(make_run, tmp_path, names, words):
    with pytest.raises(DataError, match=words):
        export_android(make_run(), tmp_path / "app", class_names=names)
    assert not (tmp_path / "app").exists()


def test_a_run_without_int8_exports_float32_only(make_run, tmp_path):
    export = export_android(make_run(int8=None, files=["model_float32.tflite"]), tmp_path / "app")
    assert export.files == ("model_float32.tflite", "labels.txt", "ImageClassifier.kt")
    assert "model_int8" not in (tmp_path / "app" / "ImageClassifier.kt").read_text()


def kotlin_floats(text, name):
    literals = re.search(rf"val {name} = floatArrayOf\((.*)\)", text)[1].split(", ")
    assert all(re.fullmatch(r"\d+\.\d+f", literal) for literal in literals)
    return np.array([float(literal[:-1]) for literal in literals], np.float32)


@pytest.mark.parametrize("input_range", INPUT_RANGES)
def test_kotlin_and_metadata_scale_pixels_as_the_run_did(make_run, tmp_path, input_range):
    export_android(make_run(input_range=input_range), tmp_path / "app")
    text = (tmp_path / "app" / "ImageClassifier.kt").read_text(encoding="utf-8")
    metadata = read_metadata((tmp_path / "app" / "model_int8.tflite").read_bytes())
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    expected = to_input_range(pixels, input_range)
    for mean, std in (
        (kotlin_floats(text, "MEAN"), kotlin_floats(text, "STD")),
        (np.array(metadata["mean"], np.float32), np.array(metadata["std"], np.float32)),
    ):
        np.testing.assert_allclose((pixels - mean) / std, expected, atol=2e-6)
    assert f"Input range {input_range}: " in text
    assert "{{" not in text and "{%" not in text and text.endswith("}\n")


def test_kotlin_names_the_library_the_files_and_what_scores_are(make_run, tmp_path):
    export_android(make_run(), tmp_path / "app")
    text = (tmp_path / "app" / "ImageClassifier.kt").read_text(encoding="utf-8")
    assert re.search(r'implementation\("com\.google\.ai\.edge\.litert:litert:\d+\.\d+\.\d+"\)', text)
    assert 'model: String = "model_float32.tflite"' in text and 'assets.open("labels.txt")' in text
    assert "A class and its probability, 0 to 1." in text
    assert all(line in text for line in ("put(red, 0)", "put(green, 1)", "put(blue, 2)"))


def test_kotlin_makes_grey_of_colour_and_does_not_call_logits_probabilities(tmp_path):
    image = keras.Input((6, 8, 1))
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(image))
    run = tmp_path / "run"
    run.mkdir()
    (run / "model_float32.tflite").write_bytes(to_tflite(keras.Model(image, outputs)))
    (run / "summary.json").write_text(json.dumps({"baseline": {}, "input_range": "0..1"}))
    export_android(run, tmp_path / "app")
    text = (tmp_path / "app" / "ImageClassifier.kt").read_text(encoding="utf-8")
    assert "put((19595 * red + 38470 * green + 7471 * blue + 32768) shr 16, 0)" in text
    assert "put(red, 0)" not in text
    assert len(kotlin_floats(text, "MEAN")) == len(kotlin_floats(text, "STD")) == 1
    assert "the network ends without a softmax" in text and "probability" not in text


def test_float_images_need_a_range(make_run, tmp_path):
    run = make_run(image_dtype="float32")
    with pytest.raises(SettingsError, match=r"does not tell how pixels are scaled .* give --input-range"):
        export_android(run, tmp_path / "app")
    assert export_android(run, tmp_path / "app", input_range="0..255").input_range == "0..255"
    with pytest.raises(SettingsError, match=r"'0..2', but must be one of -1..1"):
        export_android(run, tmp_path / "other", input_range="0..2")


def test_an_export_is_replaced_on_request_only_and_other_files_stay(make_run, tmp_path):
    run, target = make_run(), tmp_path / "assets"
    target.mkdir()
    (target / "own.json").write_text("{}")
    export_android(run, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(RunFolderError, match=r"holds ImageClassifier.kt: give --overwrite"):
        export_android(run, target, input_range="0..1")
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    without_int8 = {name: value for name, value in SUMMARY.items() if name != "int8"}
    (run / "summary.json").write_text(json.dumps(without_int8))
    export_android(run, target, overwrite=True)
    assert {path.name for path in target.iterdir()} == before.keys() - {"model_int8.tflite"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_networks_of_a_run_are_not_replaced(make_run, networks, overwrite):
    run = make_run()
    with pytest.raises(RunFolderError, match="is the folder of a run: name another folder"):
        export_android(run, run, overwrite=overwrite)
    assert (run / "model_int8.tflite").read_bytes() == networks["model_int8.tflite"]


def test_what_is_no_finished_run_is_refused(make_run, tmp_path):
    with pytest.raises(RunFolderError, match="none is not a folder"):
        export_android(tmp_path / "none", tmp_path / "app")
    run = make_run()
    (run / "summary.json").unlink()
    with pytest.raises(RunFolderError, match=r"summary.json is missing; give the folder of a finished run"):
        export_android(run, tmp_path / "app")


def test_a_network_that_the_summary_tells_of_must_be_there(make_run, tmp_path):
    run = make_run(files=["model_float32.tflite"])
    with pytest.raises(RunFolderError, match=r"model_int8.tflite is missing, but summary.json tells of it"):
        export_android(run, tmp_path / "app")


@pytest.mark.parametrize(
    "damage", [lambda content: content[:3000], lambda content: b"", lambda content: b"x" * 99]
)
def test_a_damaged_network_is_named(make_run, networks, tmp_path, damage):
    run = make_run()
    (run / "model_int8.tflite").write_bytes(damage(networks["model_int8.tflite"]))
    with pytest.raises(ModelError, match=r"model_int8.tflite cannot be exported: The .* bytes"):
        export_android(run, tmp_path / "app")
    assert not (tmp_path / "app").exists()


def test_a_folder_that_cannot_be_made_is_named(make_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"file.app cannot be written: Not a directory"):
        export_android(make_run(), tmp_path / "file" / "app")


def test_class_names_are_read_from_any_text_editor(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbfcat\r\nH\xc3\xa4her\r\n")
    assert read_class_names(path) == ("cat", "Häher")
    path.write_bytes(b"H\xe4her\n")
    with pytest.raises(DataError, match=r"names.txt cannot be read as UTF-8 text"):
        read_class_names(path)
    with pytest.raises(DataError, match=r"There is no file .*none.txt"):
        read_class_names(tmp_path / "none.txt")
