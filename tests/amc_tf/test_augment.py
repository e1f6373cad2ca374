"""Facts about amc_tf/augment.py."""

import numpy as np
import pytest

from amc_tf.augment import augmentation, choose_augmentation, crop_flip, flip, shift
from amc_tf.errors import SettingsError
from amc_tf.image_data import ImageData


def image_data(images, class_names=None):
    return ImageData(images, np.zeros(len(images), np.int64), 2, class_names)


def colour_images(count=6, size=16):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others():
    images = colour_images(200, 4)
    flipped = flip(images, np.random.default_rng(1))
    mirrored = [np.array_equal(new, old[:, ::-1]) for new, old in zip(flipped, images, strict=True)]
    same = [np.array_equal(new, old) for new, old in zip(flipped, images, strict=True)]
    assert all(a or b for a, b in zip(mirrored, same, strict=True))
    assert 80 < sum(mirrored) < 120


def test_shift_moves_by_at_most_a_sixteenth_and_repeats_the_edge():
    images = np.zeros((50, 32, 32, 1), np.uint8)
    images[:, 10, 20] = 255
    moved = shift(images, np.random.default_rng(0))
    _, rows, columns, _ = np.nonzero(moved)
    assert set(rows - 10) == set(columns - 20) == {-2, -1, 0, 1, 2}
    border = np.zeros((50, 32, 32, 1), np.uint8)
    border[:, :, 0] = 9
    assert shift(border, np.random.default_rng(0))[:, :, 0].max() == 9


@pytest.mark.parametrize("change", [flip, shift, crop_flip])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_shape_dtype_and_the_original_survive(change, dtype):
    images = colour_images().astype(dtype)
    before = images.copy()
    changed = change(images, np.random.default_rng(0))
    assert changed.shape == images.shape
    assert changed.dtype == dtype
    assert np.array_equal(images, before)


def test_the_same_generator_state_gives_the_same_images():
    first, second = (crop_flip(colour_images(), np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, second)


def test_images_of_one_pixel_pass():
    assert crop_flip(np.ones((2, 1, 1, 3), np.uint8), np.random.default_rng(0)).shape == (2, 1, 1, 3)


def test_colour_images_are_cropped_and_flipped_and_writing_is_only_shifted():
    assert choose_augmentation(image_data(colour_images(), ("cat", "dog"))) == "crop_flip"
    assert choose_augmentation(image_data(colour_images())) == "crop_flip"
    assert choose_augmentation(image_data(colour_images(), ("0", "1"))) == "shift"
    grey = np.repeat(colour_images()[..., :1], 3, axis=-1)
    assert choose_augmentation(image_data(grey, ("six", "nine"))) == "shift"


def test_augmentations_are_found_by_name():
    data = image_data(colour_images())
    assert augmentation("none", data) is None
    assert augmentation("flip", data) is flip
    assert augmentation("auto", data) is crop_flip
    with pytest.raises(SettingsError, match="choose one of auto, none, flip, shift, crop_flip"):
        augmentation("rotate", data)
