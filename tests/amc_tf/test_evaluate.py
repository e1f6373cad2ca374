import numpy as np
import pytest

from amc_tf.errors import DataError, ModelError
from amc_tf.evaluate import Accuracy, accuracy, check_not_chance, compiled, probabilities
from amc_tf.image_data import ImageData


def make_data(labels, num_classes: int) -> ImageData:
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)  # image i is the pixel i
    return ImageData(images, np.array(labels), num_classes)


def predictor(scores):
    table = np.array(scores, np.float32)
    return lambda images: table[images[:, 0, 0, 0].astype(int)]


def test_top1_and_top5_are_counted_over_batches_of_unequal_size() -> None:
    scores = np.tile(np.arange(8.0), (5, 1))  # the highest class is 7, the best five are 3..7
    batches = []

    def predict(images):
        batches.append(len(images))
        return predictor(scores)(images)

    measured = accuracy(predict, make_data([7, 3, 2, 7, 0], 8), input_range="0..255", batch_size=2)
    assert (measured.top1, measured.top5) == (0.4, 0.6)
    assert batches == [2, 2, 1]


def test_top5_of_five_classes_or_fewer_is_one() -> None:
    measured = accuracy(predictor(np.eye(3)), make_data([1, 2, 2], 3), input_range="0..255")
    assert (measured.top1, measured.top5) == (1 / 3, 1.0)


def test_equal_scores_go_to_the_lower_class() -> None:
    data = make_data([0, 1, 5, 9], 10)
    measured = accuracy(predictor(np.zeros((4, 10))), data, input_range="0..255")
    assert measured == Accuracy(top1=0.25, top5=0.5, probability=pytest.approx(0.1))


def test_an_image_with_a_nan_score_is_wrong() -> None:
    scores = np.eye(6)[:2]
    scores[0, 0] = np.nan
    assert accuracy(predictor(scores), make_data([0, 1], 6), input_range="0..255") == Accuracy(0.5, 0.5, 0.5)


SOFTMAX = ((0.5, 0.3, 0.2), (0.1, 0.8, 0.1), (0.25, 0.25, 0.5))
INT8_SOFTMAX = np.floor(256 * np.array(SOFTMAX)) / 256  # whose rows sum to less than one


@pytest.mark.parametrize(
    ("scores", "tolerance"),
    [(SOFTMAX, 1e-7), (np.log(SOFTMAX), 1e-7), (np.log(SOFTMAX) + 40.0, 1e-6), (INT8_SOFTMAX, 0.01)],
)
def test_the_probability_of_the_true_class_is_that_of_logits_and_of_softmax(scores, tolerance) -> None:
    measured = accuracy(predictor(scores), make_data([0, 0, 2], 3), input_range="0..255", batch_size=2)
    assert measured.probability == pytest.approx((0.5 + 0.1 + 0.5) / 3, abs=tolerance)


def test_pixels_reach_the_network_in_its_input_range() -> None:
    seen = []

    def predict(images):
        seen.append(images)
        return np.zeros((len(images), 2))

    data = ImageData(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1), np.array([0, 1]), 2)
    accuracy(predict, data, input_range="-1..1")
    assert seen[0].ravel().tolist() == [-1.0, 1.0]
    assert seen[0].dtype == np.float32


def test_a_network_that_is_no_classifier_is_refused() -> None:
    with pytest.raises(ModelError, match=r"shape \(2, 4, 4, 3\) for 2 images"):
        accuracy(lambda images: np.zeros((2, 4, 4, 3)), make_data([0, 1], 3), input_range="0..1")


def test_labels_without_an_output_are_refused() -> None:
    with pytest.raises(DataError, match="labels go up to 5, but the model has 2 outputs"):
        accuracy(lambda images: np.zeros((len(images), 2)), make_data([0, 5], 6), input_range="0..1")


@pytest.mark.parametrize(
    ("top1", "num_classes", "num_images"),
    [(0.15, 10, 10_000), (0.06, 1000, 500), (0.6, 2, 1000), (1.0, 10, 5), (0.5, 10, 20), (1.0, 1, 10)],
)
def test_a_model_that_has_learned_something_passes(top1: float, num_classes: int, num_images: int) -> None:
    check_not_chance(top1, num_classes, num_images=num_images, input_range="0..1")


@pytest.mark.parametrize(
    ("top1", "num_classes", "num_images"),
    [(0.1, 10, 10_000), (0.14, 10, 10_000), (0.04, 1000, 500), (0.3, 10, 20), (0.5, 2, 1000), (0.0, 10, 100)],
)
def test_a_model_that_guesses_is_stopped(top1: float, num_classes: int, num_images: int) -> None:
    with pytest.raises(
        DataError, match=r"is -1\.\.1; try another \(input_range, --input-range\): 0\.\.1, 0\.\.255, imagenet"
    ):
        check_not_chance(top1, num_classes, num_images=num_images, input_range="-1..1")


def test_float_images_that_are_guessed_on_are_told_with_their_range() -> None:
    with pytest.raises(DataError, match=r"floats from 0 to 255 and go to the model as they are: prepare"):
        check_not_chance(0.1, 10, num_images=100, input_range="-1..1", float_range=(0.0, 255.0))


def test_a_compiled_model_computes_inference_and_leaves_the_model_as_it_was(library) -> None:
    model = library.Sequential(
        [library.layers.Input((2, 2, 3)), library.layers.Dropout(0.9), library.layers.Flatten()]
    )
    images = np.random.default_rng(0).normal(size=(5, 2, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(compiled(model)(images), images.reshape(5, 12))
    assert model.predict_function is None


def test_fidelity_tells_how_near_the_outputs_are_to_the_originals() -> None:
    data = make_data([0, 0, 0], 3)
    other = ((0.5, 0.3, 0.2), (0.8, 0.1, 0.1), (0.25, 0.25, 0.5))
    reference = probabilities(predictor(np.log(SOFTMAX)), data, input_range="0..255", batch_size=2)
    np.testing.assert_allclose(reference, SOFTMAX, atol=1e-6)

    def fidelity(scores):
        return accuracy(
            predictor(scores), data, input_range="0..255", batch_size=2, reference=reference
        ).fidelity

    divergence = 0.1 * np.log(0.1 / 0.8) + 0.8 * np.log(0.8 / 0.1)  # the other images are alike
    assert fidelity(SOFTMAX) == pytest.approx(1.0)
    assert fidelity(other) == pytest.approx(np.exp(-divergence / 3), rel=1e-5)
    assert fidelity(np.log(other)) == pytest.approx(np.exp(-divergence / 3), rel=1e-5)
    assert accuracy(predictor(other), data, input_range="0..255").fidelity is None


def test_an_output_that_int8_rounds_to_zero_does_not_ruin_the_fidelity() -> None:
    data, original = make_data([0], 3), np.array([[0.97, 0.02, 0.01]], np.float32)
    predict = predictor(((0.9765625, 0.01953125, 0.0),))
    found = accuracy(predict, data, input_range="0..255", reference=original).fidelity
    assert 0.85 < found < 0.95
