import json
import re
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tf_keras

from amc_tf.clone import is_tf_keras
from amc_tf.errors import ModelError
from amc_tf.model_file import image_size_of, load_model
from tests.flips import read_flipped


def tiny(library):
    images = library.Input((8, 8, 3))
    hidden = library.layers.Conv2D(4, 3, activation="relu")(images)
    return library.Model(images, library.layers.Dense(2)(library.layers.GlobalAveragePooling2D()(hidden)))


class Sub(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(2)

    def call(self, images):
        return self.dense(keras.ops.mean(images, axis=(1, 2)))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_a_saved_model_of_either_flavour_gives_the_same_outputs(tmp_path, library, suffix):
    model = tiny(library)
    model.save(tmp_path / f"model{suffix}")
    loaded = load_model(str(tmp_path / f"model{suffix}"))
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(loaded(images)), np.asarray(model(images)), rtol=1e-5, atol=1e-6)
    assert image_size_of(loaded) == (8, 8, 3)


def test_only_keras_2_can_read_its_own_keras_files(tmp_path):
    tiny(tf_keras).save(tmp_path / "model.keras")
    assert is_tf_keras(load_model(str(tmp_path / "model.keras")))


def test_a_name_of_the_zoo_is_loaded():
    assert image_size_of(load_model("demo")) == (64, 64, 3)


def test_an_open_image_size_becomes_224():
    images = keras.Input((None, None, 3))
    model = keras.Model(images, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(images)))
    assert image_size_of(model) == (224, 224, 3)


def test_a_model_of_two_inputs_is_refused():
    inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    model = keras.Model(inputs, keras.layers.Add()(inputs))
    with pytest.raises(ModelError, match="one input of images"):
        image_size_of(model)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nothing", "There is no network 'nothing'; give a .keras or .h5 file, or one of: demo, plain20."),
        ("nothing.keras", "There is no file nothing.keras; give a .keras or .h5 file, or one of: demo, "),
        ("folder/nothing.h5", "There is no file folder/nothing.h5"),
    ],
)
def test_what_is_not_there_is_named_beside_what_is(source, words):
    with pytest.raises(ModelError, match=re.escape(words)):
        load_model(source)


def test_a_folder_and_a_file_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ModelError, match="is a folder, but a file was expected"):
        load_model(str(tmp_path))
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match="is no Keras model by its name"):
        load_model(str(tmp_path / "model.onnx"))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("part", [0, 100, 0.5, 0.95])
def test_a_truncated_file_is_called_damaged(tmp_path, suffix, part):
    path = tmp_path / f"model{suffix}"
    tiny(keras).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: part if isinstance(part, int) else int(part * len(whole))])
    with pytest.raises(ModelError, match=re.escape(str(path)) + " (is damaged|cannot be loaded)"):
        load_model(str(path))


def test_damaged_weights_inside_a_whole_archive_are_refused(tmp_path):
    path, broken = tmp_path / "model.keras", tmp_path / "broken.keras"
    tiny(keras).save(path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(broken, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data[:1000] if name == "model.weights.h5" else data)
    with pytest.raises(ModelError, match=re.escape(f"{broken} cannot be loaded (saved by Keras 3")):
        load_model(str(broken))


def test_no_flipped_bit_changes_the_weights_of_a_keras_file(tmp_path):
    path, model = tmp_path / "model.keras", tiny(keras)
    model.save(path)
    models, refusals = read_flipped(path, 60, lambda path: load_model(str(path)), ModelError)
    assert len(refusals) > 40
    assert all(str(path) in text and "\n" not in text for text in refusals)
    for loaded in models:
        for weights, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(weights, expected)


def test_a_flipped_bit_in_an_h5_file_is_no_other_error(tmp_path):
    path = tmp_path / "model.h5"
    tiny(keras).save(path)
    models, refusals = read_flipped(path, 60, lambda path: load_model(str(path)), ModelError)
    assert models and refusals
    assert all(str(path) in text and "\n" not in text for text in refusals)


def test_a_subclassed_model_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(Sub, "__module__", "module_of_another_process")
    model = Sub()
    model(np.zeros((1, 8, 8, 3), np.float32))
    model.save(tmp_path / "model.keras")
    with pytest.raises(ModelError, match=r"needs the class Sub, .* keras.Model\(inputs, outputs\)"):
        load_model(str(tmp_path / "model.keras"))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_code_inside_a_file_is_never_run(tmp_path, library, suffix):
    target = str(tmp_path / "was-run")
    images = library.Input((8, 8, 3))
    touch = library.layers.Lambda(lambda x: (open(target, "a").close(), x)[1], name="evil")
    hidden = library.layers.GlobalAveragePooling2D()(touch(images))
    library.Model(images, library.layers.Dense(2)(hidden)).save(tmp_path / f"model{suffix}")
    Path(target).unlink(missing_ok=True)
    with pytest.raises(ModelError, match="the Lambda layer 'evil', which is Python code"):
        load_model(str(tmp_path / f"model{suffix}"))
    assert not Path(target).exists()


def test_a_file_of_weights_alone_is_told_apart(tmp_path):
    tiny(keras).save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ModelError, match="holds weights without the model"):
        load_model(str(tmp_path / "model.weights.h5"))


@pytest.mark.parametrize("name", ["config.json", "metadata.json"])
def test_a_description_that_unpacks_to_far_more_than_any_network_has_is_refused(tmp_path, name):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in ("config.json", "metadata.json"):
            archive.writestr(member, b" " * ((64 << 20) + 1) if member == name else b"{}")
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ModelError, match=re.escape(f"{path} is damaged or no Keras model")):
        load_model(str(path))


def test_a_zip_file_without_a_model_is_refused(tmp_path):
    path = Path(tmp_path / "model.keras")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({}))
    with pytest.raises(ModelError, match="is damaged or no Keras model"):
        load_model(str(path))
