from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amc_tf import image_folder
from amc_tf.errors import DataError
from amc_tf.image_folder import check_memory, cover_resize, load_folder, load_images, read_images

SIZE = (4, 4, 3)


def write_images(folder: Path, colours: list[tuple[int, int, int]], suffix: str = ".png") -> None:
    folder.mkdir(parents=True)
    for index, colour in enumerate(colours):
        Image.new("RGB", (6, 5), colour).save(folder / f"{index}{suffix}")


def test_train_and_validation_folders_are_read_with_classes_in_name_order(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "dog", [(0, 0, 200), (0, 0, 100)])
    write_images(tmp_path / "train" / "cat", [(250, 0, 0)])
    write_images(tmp_path / "validation" / "dog", [(0, 0, 50)], suffix=".BMP")
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    train, validation = load_folder(tmp_path, SIZE, seed=0)
    assert train.class_names == validation.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0, 1, 1]
    assert train.images[:, 2, 2].tolist() == [[250, 0, 0], [0, 0, 200], [0, 0, 100]]
    assert (validation.labels.tolist(), validation.num_classes) == ([1], 2)
    assert validation.images.shape == (1, 4, 4, 3)


def test_a_class_called_train_is_no_part(tmp_path: Path) -> None:
    for name in ("bus", "test", "train"):
        write_images(tmp_path / name, [(index, 0, 0) for index in range(5)])
    train, _ = load_folder(tmp_path, SIZE, seed=0)
    assert train.class_names == ("bus", "test", "train")


@pytest.mark.parametrize("names", [("train", "val"), ("train", "test1"), ("train", "train_masks", "valid-2")])
def test_parts_without_class_folders_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write_images(tmp_path / name, [(index, 0, 0) for index in range(5)])
    with pytest.raises(DataError, match=r"train holds no class folders|has a folder train but none of val,"):
        load_folder(tmp_path, SIZE, seed=0)


def test_a_class_of_which_no_file_can_be_read_is_named(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_images(tmp_path / name, [(1, 1, 1)] * 3)
    (tmp_path / "fox").mkdir()  # a class of the model without images
    (tmp_path / "fox" / ".DS_Store").touch()
    assert load_folder(tmp_path, SIZE, seed=0)[0].num_classes == 3
    (tmp_path / "fox" / "IMG_1.heic").touch()
    with pytest.raises(
        DataError, match=r"Of .*fox no file can be read, such as IMG_1\.heic: images end in \.jpg"
    ):
        load_folder(tmp_path, SIZE, seed=0)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_of_16_bits_the_upper_8_are_read(tmp_path: Path, suffix: str) -> None:
    pixels = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
    Image.fromarray(pixels).save(tmp_path / f"grey{suffix}")
    (image,) = read_images([tmp_path / f"grey{suffix}"], SIZE)
    np.testing.assert_array_equal(image, np.repeat((pixels >> 8)[..., None], 3, axis=-1))


def test_one_folder_of_classes_is_split_by_the_seed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_images(tmp_path / name, [(index, 0, 0) for index in range(10)])
    splits = [load_folder(tmp_path, SIZE, seed=seed) for seed in (0, 0, 1)]
    train, validation = splits[0]
    assert (np.bincount(train.labels).tolist(), np.bincount(validation.labels).tolist()) == ([8, 8], [2, 2])
    reds = [part[1].images[:, 0, 0, 0].tolist() for part in splits]
    assert reds[0] == reds[1] != reds[2]


def test_images_are_scaled_to_cover_the_size_and_cropped_at_the_centre() -> None:
    pixels = np.zeros((2, 6, 3), np.uint8)
    pixels[:, :2], pixels[:, 2:4], pixels[:, 4:] = 10, 20, 30  # left, middle and right third
    np.testing.assert_array_equal(cover_resize(Image.fromarray(pixels), (2, 2, 3)), np.full((2, 2, 3), 20))
    tall = Image.fromarray(pixels.transpose(1, 0, 2))
    np.testing.assert_array_equal(cover_resize(tall, (2, 2, 1)), np.full((2, 2, 1), 20))


@pytest.mark.parametrize("size", [(7, 9), (333, 501), (1, 13), (97, 3)])
def test_no_proportion_asks_for_a_box_beyond_the_image(size: tuple[int, int]) -> None:
    assert cover_resize(Image.new("L", size), (31, 17, 3)).shape == (31, 17, 3)


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "a", [(1, 1, 1)] * 3, suffix=".jpg")
    (tmp_path / "a" / "1.jpg").write_bytes((tmp_path / "a" / "1.jpg").read_bytes()[:200])
    with pytest.raises(DataError, match=r"1\.jpg cannot be read as an image .* replace or remove it"):
        load_folder(tmp_path, SIZE, seed=0)


def test_a_text_file_named_as_an_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    path.write_text("<html>")
    with pytest.raises(DataError, match=r"page\.png cannot be read"):
        read_images([path], SIZE)


def test_folders_that_hold_no_data_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no class folders"):
        load_folder(tmp_path, SIZE, seed=0)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match=r"hold no images \(\.jpg"):
        load_folder(tmp_path, SIZE, seed=0)
    write_images(tmp_path / "dog", [(0, 0, 0)])
    with pytest.raises(DataError, match="No class in .* has two images"):
        load_folder(tmp_path, SIZE, seed=0)


def test_a_training_folder_needs_a_validation_folder_with_its_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "cat", [(0, 0, 0)])
    with pytest.raises(DataError, match="has a folder train but none of val, validation"):
        load_folder(tmp_path, SIZE, seed=0)
    write_images(tmp_path / "val" / "mouse", [(0, 0, 0)])
    with pytest.raises(DataError, match="class folder 'mouse', which the training images do not have"):
        load_folder(tmp_path, SIZE, seed=0)


def test_images_have_one_or_three_channels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 or 3 channels, but 4 were asked for"):
        read_images([tmp_path / "a.png"], (4, 4, 4))


def test_images_beyond_half_of_the_free_memory_are_refused_before_they_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(image_folder, "free_memory_bytes", lambda: 2_000_000_000)
    with pytest.raises(
        DataError, match="10000 images of 224x224x3: they take 1.5 GB or more, but of the 2.0 GB"
    ):
        read_images([tmp_path / "missing.png"] * 10_000, (224, 224, 3))
    check_memory(1_000_000_000, "the images")


def test_a_system_that_does_not_tell_its_memory_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folder, "free_memory_bytes", lambda: None)
    check_memory(10**15, "the images")


def test_all_images_below_a_folder_are_read_whatever_their_folders_are_called(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "cats", [(255, 0, 0)])
    write_images(tmp_path / "more", [(0, 255, 0), (0, 0, 255)], suffix=".bmp")
    write_images(tmp_path / ".thumbnails", [(9, 9, 9)])
    (tmp_path / "notes.txt").write_text("none")
    images = load_images(tmp_path, SIZE)
    assert images.dtype == np.uint8
    assert images[:, 0, 0].tolist() == [[0, 255, 0], [0, 0, 255], [255, 0, 0]]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match=r"holds no images \(\.jpg, "):
        load_images(tmp_path, SIZE)
