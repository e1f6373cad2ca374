from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from amc_tf.data import load_data, load_unlabelled
from amc_tf.errors import DataError

IMAGES = np.arange(20, dtype=np.uint8).reshape(10, 2, 1, 1)
LABELS = np.tile([0, 1], 5)


def test_digits_are_enlarged_and_split_in_one_way_for_every_seed() -> None:
    train, validation = load_data("digits", (16, 16, 3), seed=0)
    assert (train.images.shape, validation.images.shape) == ((1438, 16, 16, 3), (359, 16, 16, 3))
    assert (train.images.dtype, train.images.min(), train.images.max()) == (np.uint8, 0, 255)
    assert np.bincount(validation.labels).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert train.class_names == tuple("0123456789")
    np.testing.assert_array_equal(load_data("digits", (16, 16, 3), seed=7)[1].images, validation.images)


def test_digits_are_64x64x3_by_default_and_grey_when_asked() -> None:
    assert load_data("digits")[1].image_size == (64, 64, 3)
    from sklearn.datasets import load_digits

    train, validation = load_data("digits", (8, 8, 1))
    total = int(train.images.astype(int).sum() + validation.images.astype(int).sum())
    assert total == int(np.round(load_digits().images * 255 / 16).astype(np.uint8).astype(int).sum())


def test_digits_cannot_have_two_channels() -> None:
    with pytest.raises(DataError, match="1 or 3 channels, but the model takes 8x8x2"):
        load_data("digits", (8, 8, 2))


def test_cifar_comes_from_keras_and_is_resized_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.full((3, 32, 32, 3), 9, np.uint8)
    parts = ((images, np.array([[0], [9], [5]])), (images[:1], np.array([[3]])))
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: parts)
    train, validation = load_data("cifar10")
    assert (train.image_size, train.labels.tolist(), validation.labels.tolist()) == (
        (32, 32, 3),
        [0, 9, 5],
        [3],
    )
    assert validation.class_names[3] == "cat"
    assert load_data("cifar10", (48, 48, 3))[0].images[0, 20, 20].tolist() == [9, 9, 9]


def test_cifar_that_cannot_be_downloaded_says_where_keras_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise Exception("URL fetch failure on https://example.org: None")

    monkeypatch.setenv("KERAS_HOME", "/data/keras")
    monkeypatch.setattr(keras.datasets.cifar100, "load_data", fail)
    with pytest.raises(
        DataError, match=r"cifar100 is not in /data/keras/datasets.*URL fetch failure.*npz file"
    ):
        load_data("cifar100")


def test_folder_is_read_at_the_size_of_the_model(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(2):
            Image.new("L", (9, 9)).save(tmp_path / name / f"{index}.png")
    train, validation = load_data(str(tmp_path), (6, 5, 1))
    assert (len(train), len(validation), train.image_size) == (2, 2, (6, 5, 1))


def test_a_model_of_open_image_sizes_needs_one_to_be_given(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"any size \(\?x\?x3\): give the one to read them in, such as \(224,"
    ):
        load_data(str(tmp_path), (None, None, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["test", "val"])
def test_npz_with_parts_is_read_as_it_is(tmp_path: Path, part: str) -> None:
    arrays = {"x_train": IMAGES, "y_train": LABELS, f"x_{part}": IMAGES[:3], f"y_{part}": np.array([0, 2, 1])}
    np.savez(tmp_path / "data.npz", **arrays)
    train, validation = load_data(str(tmp_path / "data.npz"))
    np.testing.assert_array_equal(train.images, IMAGES)
    assert validation.labels.tolist() == [0, 2, 1]
    assert train.num_classes == validation.num_classes == 3


def test_npz_of_images_and_labels_is_split_by_the_seed(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=IMAGES, labels=LABELS)
    parts = [
        load_data(str(tmp_path / "data.npz"), seed=seed)[1].images[:, 0, 0, 0].tolist() for seed in (1, 1, 2)
    ]
    assert parts[0] == parts[1] != parts[2]
    assert len(parts[0]) == 2


def test_npz_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with pytest.raises(DataError, match=r"There is no file .*data\.npz"):
        load_data(str(path))
    path.write_bytes(b"PK not really")
    with pytest.raises(DataError, match="cannot be read as an .npz file"):
        load_data(str(path))
    np.savez(path, pixels=IMAGES)
    with pytest.raises(DataError, match="holds the arrays pixels, but x_train, y_train"):
        load_data(str(path))
    np.savez(path, images=np.array([{}] * 2, object), labels=LABELS[:2])
    with pytest.raises(DataError, match="file of plain arrays"):
        load_data(str(path))
    np.savez(path, images=IMAGES, labels=LABELS.astype(str))
    with pytest.raises(DataError, match="labels are text"):
        load_data(str(path))


def test_images_of_another_size_than_the_model_takes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=IMAGES, labels=LABELS)
    with pytest.raises(DataError, match=r"data\.npz are 2x1x1, but the model takes 224x224x3: resize them"):
        load_data(str(tmp_path / "data.npz"), (224, 224, 3))


MODULE = """
import numpy as np
def arrays():
    print("loading")
    return (np.zeros((4, 2, 2, 3), np.uint8), [0, 1, 2, 0]), (np.ones((2, 2, 2, 3), np.float32), [1, 1])
def broken():
    raise KeyError("photos")
def one():
    return np.zeros(3)
"""


def test_a_function_of_a_module_in_the_working_folder_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_photos_for_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    train, validation = load_data("my_photos_for_test:arrays")
    assert (train.labels.tolist(), train.num_classes, validation.num_classes) == ([0, 1, 2, 0], 3, 3)
    assert validation.images.dtype == np.float32
    assert capsys.readouterr() == ("", "loading\n")
    with pytest.raises(DataError, match="broken failed with KeyError: 'photos'"):
        load_data("my_photos_for_test:broken")
    with pytest.raises(DataError, match="returned a ndarray, but must return a pair"):
        load_data("my_photos_for_test:one")
    with pytest.raises(DataError, match="no function load; it has arrays, broken, one"):
        load_data("my_photos_for_test:load")


@pytest.mark.parametrize(
    ("code", "words"), [("1 / 0", "ZeroDivisionError: division by zero"), ("def load(", "SyntaxError: ")]
)
def test_a_module_that_fails_while_it_is_imported_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: str,
    words: str,
) -> None:
    name = f"photos_that_fail_{words[:6].lower()}"
    (tmp_path / f"{name}.py").write_text(f"{'print(1)' if '/' in code else ''}\n{code}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"The module of {name}:load failed with {words}"):
        load_data(f"{name}:load")
    assert capsys.readouterr().out == ""


def test_sources_that_do_not_exist_are_refused() -> None:
    with pytest.raises(DataError, match="'mnist': expected digits, cifar10, cifar100, a folder"):
        load_data("mnist")
    with pytest.raises(DataError, match="'no/such/folder'"):
        load_data("no/such/folder")
    with pytest.raises(DataError, match="module of no_such_module:load cannot be imported"):
        load_data("no_such_module:load")


def test_images_without_labels_come_from_a_folder_or_a_file(tmp_path: Path) -> None:
    Image.new("RGB", (6, 6), (9, 9, 9)).save(tmp_path / "one.png")
    np.savez(tmp_path / "some.npz", images=IMAGES)
    assert load_unlabelled(str(tmp_path), (3, 3, 3)).tolist() == np.full((1, 3, 3, 3), 9).tolist()
    assert np.array_equal(load_unlabelled(str(tmp_path / "some.npz"), (2, 1, 1)), IMAGES)


def test_sources_without_images_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=IMAGES)
    for source, words in [
        (tmp_path / "other.npz", "holds the arrays x, but images is needed"),
        (tmp_path / "none.npz", "There is no file"),
        ("", "There are no images ''"),
        (tmp_path / "none", "give a folder of images, or an .npz file with an array images"),
    ]:
        with pytest.raises(DataError, match=words):
            load_unlabelled(str(source), (2, 1, 1))
