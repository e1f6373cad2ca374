import keras
import numpy as np
import pytest

from amc_tf import calibration
from amc_tf.calibration import calibrate
from amc_tf.network import NetworkFunction
from tests.harness import randomize
from tests.networks import classifier

ALL_POSITIONS = 64  # of an image of 8x8 pixels


def windows_of(tensor, kernel_size, strides=(1, 1), dilation=(1, 1), padding="valid"):
    """The inputs of every output position by plain loops: [positions, rows * columns * channels]."""
    extents = [(size - 1) * step + 1 for size, step in zip(kernel_size, dilation, strict=True)]
    if padding == "same":
        pads = []
        for axis in range(2):
            size, stride = tensor.shape[axis + 1], strides[axis]
            total = max((-(-size // stride) - 1) * stride + extents[axis] - size, 0)
            pads.append((total // 2, total - total // 2))
        tensor = np.pad(tensor, [(0, 0), *pads, (0, 0)])
    rows = []
    for image in tensor:
        for top in range(0, image.shape[0] - extents[0] + 1, strides[0]):
            for left in range(0, image.shape[1] - extents[1] + 1, strides[1]):
                bottom, right = top + extents[0], left + extents[1]
                rows.append(image[top : bottom : dilation[0], left : right : dilation[1]].ravel())
    return np.array(rows, np.float64)


def hidden_inputs(library, model, name, images):
    """What goes into a layer, as Keras computes it."""
    return np.asarray(library.Model(model.input, model.get_layer(name).input)(images, training=False))


def check_moments(statistics, rows):
    assert statistics.num_samples == len(rows)
    np.testing.assert_allclose(statistics.mean, rows.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(statistics.covariance, np.cov(rows.T, bias=True), atol=2e-5)
    np.testing.assert_allclose(statistics.mean_square, np.square(rows).mean(axis=0), atol=2e-5)
    np.testing.assert_allclose(statistics.second_moment, rows.T @ rows / len(rows), atol=2e-5)


def random_images(count=6):
    return np.random.default_rng(0).normal(0, 1, (count, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("kernel_size", "options"),
    [
        (1, {}),
        (1, {"strides": 2}),
        (3, {}),
        (3, {"padding": "same"}),
        (3, {"padding": "same", "strides": 2}),
        (3, {"padding": "same", "dilation_rate": 2}),
        ((2, 3), {"padding": "same", "strides": (3, 2)}),
        ((3, 1), {"dilation_rate": (2, 1)}),
    ],
)
def test_moments_of_a_convolution_are_those_of_its_windows(library, kernel_size, options):
    reader = library.layers.Conv2D(5, kernel_size, name="read", **options)
    model, images = randomize(classifier(library, reader)), random_images()
    layer = model.get_layer("read")
    rows = windows_of(
        hidden_inputs(library, model, "read", images),
        layer.kernel_size,
        layer.strides,
        layer.dilation_rate,
        layer.padding,
    )

    found = calibrate(NetworkFunction(model), images, points_per_image=ALL_POSITIONS, batch_size=4)

    check_moments(found.inputs["read"], rows)


def test_moments_of_a_dense_layer_are_those_of_its_inputs(library):
    def body(hidden):
        hidden = library.layers.Conv2D(2, 3, strides=3, name="maps")(hidden)
        return library.layers.Dense(6, name="read")(library.layers.Flatten()(hidden))

    model, images = randomize(classifier(library, body)), random_images()

    found = calibrate(NetworkFunction(model), images)

    rows = hidden_inputs(library, model, "read", images).astype(np.float64)
    assert rows.shape == (6, 8)
    check_moments(found.inputs["read"], rows)
    rows = hidden_inputs(library, model, "classes", images).astype(np.float64)
    check_moments(found.inputs["classes"], rows)


def test_moments_of_a_separable_convolution_are_those_between_its_two_kernels(library):
    options = {"strides": 2, "padding": "same", "depth_multiplier": 2}
    reader = library.layers.SeparableConv2D(5, 3, name="read", **options)
    model, images = randomize(classifier(library, reader)), random_images()
    kernel = model.get_layer("read").get_weights()[0]  # [3, 3, 8, 2]
    windows = windows_of(hidden_inputs(library, model, "read", images), (3, 3), (2, 2), padding="same")
    between = np.einsum("nkc,kcm->ncm", windows.reshape(-1, 9, 8), kernel.reshape(9, 8, 2)).reshape(-1, 16)

    found = calibrate(NetworkFunction(model), images, points_per_image=ALL_POSITIONS)

    check_moments(found.inputs["read"], between)


def test_a_layer_that_is_called_twice_is_sampled_in_both_calls(library):
    shared = library.layers.Conv2D(8, 1, name="read")
    model = randomize(classifier(library, lambda hidden: shared(library.layers.ReLU()(shared(hidden)))))
    images = random_images()
    first = np.asarray(library.Model(model.input, model.get_layer("first").output)(images))
    kernel, bias = model.get_layer("read").get_weights()
    again = np.maximum(first @ kernel[0, 0] + bias, 0)

    found = calibrate(NetworkFunction(model), images, points_per_image=ALL_POSITIONS)

    check_moments(found.inputs["read"], np.concatenate([first, again]).reshape(-1, 8).astype(np.float64))


def test_sampled_positions_follow_from_the_seed():
    model = randomize(classifier(keras, keras.layers.Conv2D(5, 1, name="read")))
    network, images = NetworkFunction(model), random_images()
    first, again, other = (
        calibrate(network, images, points_per_image=10, seed=seed).inputs["read"] for seed in (3, 3, 4)
    )

    assert first.num_samples == 60
    np.testing.assert_array_equal(first.covariance, again.covariance)
    assert np.abs(first.mean - other.mean).max() > 1e-3


def test_batches_draw_different_positions():
    model = randomize(classifier(keras, keras.layers.Conv2D(5, 1, name="read")))
    images = np.tile(random_images(1), (4, 1, 1, 1))

    whole = calibrate(NetworkFunction(model), images, points_per_image=10, batch_size=4).inputs["read"]
    apart = calibrate(NetworkFunction(model), images, points_per_image=10, batch_size=1).inputs["read"]

    assert np.abs(whole.mean - apart.mean).max() > 1e-3


def test_batches_are_as_small_as_large_maps_need(monkeypatch):
    model = randomize(classifier(keras, keras.layers.Conv2D(5, 1, name="read")))
    images = np.tile(random_images(1), (4, 1, 1, 1))
    apart = calibrate(NetworkFunction(model), images, points_per_image=10, batch_size=1)

    monkeypatch.setattr(calibration, "_MAX_TENSOR_BYTES", 2 * 8 * 8 * 8 * 4 - 1)  # not quite two images
    found = calibrate(NetworkFunction(model), images, points_per_image=10)

    np.testing.assert_array_equal(found.inputs["read"].mean, apart.inputs["read"].mean)


def test_only_layers_that_read_prunable_channels_are_gathered():
    model = randomize(classifier(keras, keras.layers.DepthwiseConv2D(3)))

    assert set(calibrate(NetworkFunction(model), random_images()).inputs) == {"classes"}


def test_a_layer_of_too_many_inputs_is_left_out_and_told(monkeypatch, caplog):
    monkeypatch.setattr(calibration, "MAX_FEATURES", 71)
    model = randomize(classifier(keras, keras.layers.Conv2D(5, 3, name="read")))

    found = calibrate(NetworkFunction(model), random_images())

    assert set(found.inputs) == {"classes"}
    assert caplog.messages == [
        "Layer read has 72 inputs, more than 71: it is not re-fitted when channels that it reads go."
    ]


def test_inputs_that_hardly_change_keep_their_digits():
    model = randomize(classifier(keras, keras.layers.Conv2D(5, 1, name="read")))
    kernel, bias = model.get_layer("first").get_weights()
    model.get_layer("first").set_weights([1e-4 * kernel, bias + 6.0])
    images = random_images(50)
    rows = hidden_inputs(keras, model, "read", images).reshape(-1, 8).astype(np.float64)

    found = calibrate(NetworkFunction(model), images, points_per_image=ALL_POSITIONS, batch_size=10)

    expected = np.cov(rows.T, bias=True)
    assert expected.max() < 1e-7
    np.testing.assert_allclose(found.inputs["read"].covariance, expected, atol=0.01 * expected.max())
