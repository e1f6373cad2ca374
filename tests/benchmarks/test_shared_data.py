"""The reader of the benchmark data, on a tiny folder of the same packing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amc_tf.errors import DataError
from benchmarks import shared_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cifar10", "imagenet_samples", "imagenet_test"):
        (tmp_path / name).mkdir()
    return tmp_path


def write_cifar(folder: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    rows = len(images) // 25
    sheet = images.reshape(rows, 25, 32, 32, 3).swapaxes(1, 2).reshape(rows * 32, 25 * 32, 3)
    Image.fromarray(sheet).save(folder / "cifar10" / f"{split}_00.webp", lossless=True)
    np.save(folder / "cifar10" / f"{split}_labels.npy", labels.astype(np.uint8))


def test_cifar_tiles_come_back_bit_exact_and_in_order(folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(50) % 10
    write_cifar(folder, "train", images, labels)
    write_cifar(folder, "test", images[::-1], labels[::-1])
    train, test = shared_data.load_cifar10(folder)
    np.testing.assert_array_equal(train.images, images)
    np.testing.assert_array_equal(train.labels, labels)
    np.testing.assert_array_equal(test.images, images[::-1])
    assert train.num_classes == 10
    assert train.class_names is not None and train.class_names[3] == "cat"


def test_imagenet_test_is_cropped_at_the_centre_in_the_order_of_its_labels(folder: Path) -> None:
    for name, grey in (("a.png", 10), ("b.png", 200)):
        picture = np.zeros((256, 256, 3), np.uint8)
        picture[16:240, 16:240] = grey
        Image.fromarray(picture).save(folder / "imagenet_test" / name)
    (folder / "imagenet_test" / "labels.csv").write_text(
        "file,label,wnid,image_id\nb.png,883,n0,x\na.png,5,n1,y\n"
    )
    data = shared_data.load_imagenet_test(folder)
    assert data.images.shape == (2, 224, 224, 3)
    assert data.labels.tolist() == [883, 5]
    assert data.images[0].min() == data.images[0].max() == 200
    assert data.images[1].min() == data.images[1].max() == 10


def test_imagenet_samples_are_labelled_by_their_names(folder: Path) -> None:
    for label in (7, 3):
        Image.new("RGB", (256, 256)).save(folder / "imagenet_samples" / f"{label:04d}.jpg")
    data = shared_data.load_imagenet_samples(folder)
    assert data.labels.tolist() == [3, 7]
    assert data.num_classes == 1000


def test_data_dir_comes_from_the_argument_then_from_the_environment(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("AMC_DATA_DIR", str(tmp_path))
    (tmp_path / "other").mkdir()
    assert shared_data.data_dir() == tmp_path
    assert shared_data.data_dir(tmp_path / "other") == tmp_path / "other"


def test_missing_data_is_one_clear_sentence(folder: Path, monkeypatch) -> None:
    monkeypatch.delenv("AMC_DATA_DIR", raising=False)
    with pytest.raises(DataError, match="pass --data-dir or set AMC_DATA_DIR"):
        shared_data.data_dir()
    with pytest.raises(DataError, match="does not exist"):
        shared_data.data_dir(folder / "nowhere")
    with pytest.raises(DataError, match="no packed CIFAR-10 train split"):
        shared_data.load_cifar10(folder)
    with pytest.raises(DataError, match=r"labels\.csv is missing"):
        shared_data.load_imagenet_test(folder)
    with pytest.raises(DataError, match=r"holds no \.jpg pictures"):
        shared_data.load_imagenet_samples(folder)


def test_a_sheet_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match="800x40"):
        shared_data.untile(np.zeros((40, 800, 3), np.uint8), 32, 25)
