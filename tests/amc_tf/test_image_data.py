import contextlib

import numpy as np
import pytest

from amc_tf.errors import DataError, SettingsError
from amc_tf.image_data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INPUT_RANGES,
    ImageData,
    check_data_fits,
    check_unlabelled,
    even_order,
    pixel_statistics,
    split_data,
    split_off_fraction,
    to_input_range,
)


def make_data(counts=(6, 4), size=(2, 3, 1), names=None) -> ImageData:
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.zeros((len(labels), *size), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels))  # every image is known by its first pixel
    return ImageData(images, labels, len(counts), names)


def numbers(data: ImageData) -> list[int]:
    return data.images[:, 0, 0, 0].tolist()


def test_length_size_and_take() -> None:
    data = make_data()
    assert (len(data), data.image_size) == (10, (2, 3, 1))
    part = data.take([7, 2])
    assert numbers(part) == [7, 2]
    assert part.labels.tolist() == [1, 0]
    assert part.labels.dtype == np.int64
    assert part.num_classes == 2


def test_wide_types_become_uint8_float32_and_int64() -> None:
    labels = np.array([[0], [1]], np.uint8)
    whole = ImageData(np.full((2, 1, 1, 1), 255, np.int64), labels, 2)
    assert (whole.images.dtype, whole.labels.shape) == (np.uint8, (2,))
    assert ImageData(np.ones((2, 1, 1, 1), np.float64), labels, 2).images.dtype == np.float32
    assert ImageData(np.ones((2, 1, 1, 1)), np.array([0.0, 1.0]), 2).labels.tolist() == [0, 1]


ONE_NAN = np.zeros((3, 1, 1, 1), np.float32)
ONE_NAN[1] = np.nan
IMAGES = np.zeros((3, 1, 1, 1), np.uint8)
LABELS = np.array([0, 1, 2])


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (IMAGES[:0], LABELS[:0], r"no images \(shape \(0, 1, 1, 1\)\)"),
        (IMAGES[..., 0], LABELS, r"shape \(3, 1, 1\), but must have 4 axes.*images\[..., None\]"),
        (ONE_NAN, LABELS, "Image 1 holds NaN"),
        (IMAGES.astype(np.int32) - 1, LABELS, "run from -1 to -1"),
        (IMAGES.astype(str), LABELS, "type <U"),
        (IMAGES, LABELS[:2], "3 images but 2 labels"),
        (IMAGES, np.array(["cat", "dog", "cat"]), r"text or objects \(as \['cat'\]\).*return_inverse"),
        (IMAGES, np.eye(3), r"shape \(3, 3\).*argmax"),
        (IMAGES, np.array([0.5, 1, 2]), "type float64, but must be whole numbers"),
        (IMAGES, np.array([1, 2, 3]), "from 1 to 3, but with 3 classes"),
        (IMAGES, np.array([-1, 0, 1]), "from -1 to 1"),
    ],
)
def test_arrays_that_are_no_labelled_images_are_refused(images, labels, words: str) -> None:
    with pytest.raises(DataError, match=words):
        ImageData(images, labels, 3)


def test_each_class_needs_its_name() -> None:
    with pytest.raises(DataError, match="1 class names for 2 classes"):
        make_data(names=("cat",))


def test_pixels_are_scaled_to_each_input_range() -> None:
    pixels = np.array([0, 51, 255], np.uint8)
    np.testing.assert_allclose(to_input_range(pixels, "-1..1"), [-1, -0.6, 1], atol=1e-6)
    np.testing.assert_allclose(to_input_range(pixels, "0..1"), [0, 0.2, 1], atol=1e-6)
    np.testing.assert_array_equal(to_input_range(pixels, "0..255"), [0, 51, 255])
    expected = (np.array([0, 0.2, 1]) - IMAGENET_MEAN) / IMAGENET_STD
    scaled = to_input_range(pixels, "imagenet")
    np.testing.assert_allclose(scaled, expected, rtol=1e-5)
    assert scaled.dtype == np.float32


@pytest.mark.parametrize("input_range", ["-1..1", "0..1", "0..255", "imagenet"])
def test_floats_are_in_the_range_of_the_model_already(input_range: str) -> None:
    images = np.array([[0.25, -3.0, 7.0]])
    scaled = to_input_range(images, input_range)
    np.testing.assert_array_equal(scaled, images)
    assert scaled.dtype == np.float32


def test_unknown_input_range_lists_the_known_ones() -> None:
    with pytest.raises(
        SettingsError, match=r"'0\.\.2', but must be one of -1\.\.1, 0\.\.1, 0\.\.255, imagenet"
    ):
        to_input_range(np.zeros(3, np.uint8), "0..2")


def test_imagenet_range_needs_three_channels() -> None:
    with pytest.raises(DataError, match=r"have 1 channel"):
        to_input_range(np.zeros((1, 2, 2, 1), np.uint8), "imagenet")


@pytest.mark.parametrize("input_range", INPUT_RANGES)
def test_pixel_statistics_give_what_to_input_range_gives(input_range) -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(256, 1, 3)
    mean, std = pixel_statistics(input_range, 3)
    assert len(mean) == len(std) == 3
    np.testing.assert_allclose(
        (pixels - np.array(mean)) / np.array(std), to_input_range(pixels, input_range), atol=1e-6
    )


def test_pixel_statistics_are_one_number_per_channel() -> None:
    assert pixel_statistics("0..255", 1) == ((0.0,), (1.0,))
    with pytest.raises(DataError, match=r"these have 1 channel\(s\): choose one of"):
        pixel_statistics("imagenet", 1)
    with pytest.raises(SettingsError, match=r"is '0..2', but must be one of -1..1"):
        pixel_statistics("0..2", 3)


def test_every_beginning_of_an_even_order_holds_classes_evenly() -> None:
    labels = np.repeat([0, 1, 2], [20, 3, 8])
    order = even_order(labels, np.random.default_rng(0))
    assert sorted(order) == list(range(31))
    assert np.bincount(labels[order[:9]]).tolist() == [3, 3, 3]
    assert np.bincount(labels[order[:15]]).tolist() == [6, 3, 6]
    assert np.ptp(np.bincount(labels[order[:7]])) == 1


def test_a_fraction_is_split_off_every_class() -> None:
    labels = np.repeat([0, 1, 2, 3], [20, 10, 2, 1])
    stay, split_off = split_off_fraction(labels, 0.2, np.random.default_rng(3))
    assert np.bincount(labels[split_off], minlength=4).tolist() == [4, 2, 1, 0]
    assert sorted([*stay, *split_off]) == list(range(33))


def test_split_holds_search_images_out_of_training_and_calibration() -> None:
    train, validation = make_data((12, 8)), make_data((3, 3))
    split = split_data(train, validation, num_calibration=4, num_search=6, seed=0)
    assert (len(split.train), len(split.calibration), len(split.search)) == (14, 4, 6)
    assert split.test is validation
    assert sorted(numbers(split.train) + numbers(split.search)) == list(range(20))
    assert set(numbers(split.calibration)) <= set(numbers(split.train))
    assert np.bincount(split.search.labels).tolist() == [3, 3]
    assert np.bincount(split.calibration.labels).tolist() == [2, 2]


def test_split_holds_images_without_labels_that_are_like_the_others() -> None:
    train, more = make_data((12, 8)), make_data((3, 1)).images + 100
    options = {"num_calibration": 4, "num_search": 6, "seed": 0}
    assert split_data(train, train, **options).unlabelled is None
    assert split_data(train, train, **options, unlabelled=more).unlabelled is more
    with pytest.raises(DataError, match="2x3x1, but the unlabelled ones are 4x4x1: both must have one size"):
        split_data(train, train, **options, unlabelled=make_data(size=(4, 4, 1)).images)


def test_images_without_labels_must_not_be_those_that_a_network_is_judged_on() -> None:
    train, validation = make_data((12, 8)), ImageData(np.full((4, 2, 3, 1), 99), np.array([0, 1, 0, 1]), 2)
    for known in (train.images[7:9], validation.images[1:]):
        more = np.concatenate([np.full((3, 2, 3, 1), 98, np.uint8), known])
        with pytest.raises(DataError, match=f"Of the images without labels {len(known)} are among the train"):
            split_data(train, validation, num_calibration=4, num_search=6, seed=0, unlabelled=more)


@pytest.mark.parametrize(
    ("scale", "fits"), [(1, True), (2, True), (0.1, True), (127.5, False), (0.004, False)]
)
def test_float_images_without_labels_must_be_scaled_like_the_others(scale: float, fits: bool) -> None:
    train = ImageData(np.linspace(-1, 1, 60).reshape(10, 2, 3, 1), np.arange(10) % 2, 2)
    more = scale * np.linspace(-0.9, 0.9, 6).reshape(1, 2, 3, 1)
    with contextlib.nullcontext() if fits else pytest.raises(DataError, match="from -1 to 1, but the unla"):
        check_unlabelled(more, train, train)


def test_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    train, validation = make_data((12, 8)), make_data((3, 3))
    searches = [
        numbers(split_data(train, validation, num_calibration=4, num_search=6, seed=seed).search)
        for seed in (1, 1, 2)
    ]
    assert searches[0] == searches[1] != searches[2]


def test_small_data_gives_at_most_half_of_it_to_the_search(caplog: pytest.LogCaptureFixture) -> None:
    split = split_data(make_data((6, 4)), make_data(), num_calibration=500, num_search=500, seed=0)
    assert (len(split.train), len(split.calibration), len(split.search)) == (5, 5, 5)
    assert "Only 5 search and 5 calibration images" in caplog.text


def test_images_of_one_class_are_nothing_to_judge_a_search_on() -> None:
    data = make_data((6, 4))
    one = data.take(np.flatnonzero(data.labels == 1))
    with pytest.raises(DataError, match="All 4 training images are of the class 1: .* images of all classes"):
        split_data(one, data, num_calibration=2, num_search=2, seed=0)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    def split(validation: ImageData) -> None:
        split_data(make_data(), validation, num_calibration=1, num_search=1, seed=0)

    with pytest.raises(DataError, match="training images are 2x3x1, but the validation images are 4x4x1"):
        split(make_data(size=(4, 4, 1)))
    with pytest.raises(DataError, match="2 classes and the validation data 3"):
        split(make_data((1, 1, 1)))
    with pytest.raises(SettingsError, match="at least 1 of each"):
        split_data(make_data(), make_data(), num_calibration=0, num_search=1, seed=0)


def test_data_that_fits_the_model_passes() -> None:
    check_data_fits((2, 3, 1), 2, make_data())
    check_data_fits((None, None, 1), 5, make_data())


def test_a_model_with_one_output_is_told_how_to_get_two() -> None:
    with pytest.raises(DataError, match=r"one output for each class .* end it in Dense\(2, 'softmax'\)"):
        check_data_fits((2, 3, 1), 1, make_data())


def test_the_range_of_float_images_is_known_and_that_of_pixels_is_not_asked_for() -> None:
    assert make_data().float_range is None
    floats = ImageData(np.array([-0.5, 2.0], np.float32).reshape(2, 1, 1, 1), np.array([0, 1]), 2)
    assert floats.float_range == (-0.5, 2.0)


def test_data_that_does_not_fit_the_model_is_refused() -> None:
    with pytest.raises(DataError, match="takes images of 224x224x3, but the data has 2x3x1"):
        check_data_fits((224, 224, 3), 2, make_data())
    with pytest.raises(DataError, match=r"takes images of \?x\?x3, but the data has 2x3x1"):
        check_data_fits((None, None, 3), 2, make_data())
    with pytest.raises(DataError, match="labels go up to 2, but the model has 2 outputs"):
        check_data_fits((2, 3, 1), 2, make_data((1, 1, 1)))
    with pytest.raises(DataError, match=r"2 classes \(cat, dog\), but the model has 10 outputs"):
        check_data_fits((2, 3, 1), 10, make_data(names=("cat", "dog")))
