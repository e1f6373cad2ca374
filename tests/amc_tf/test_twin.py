import keras
import numpy as np
import pytest
import tf_keras

from amc_tf.clone import clone_with, copy_weights, is_tf_keras, iterate_layers
from amc_tf.errors import ModelError
from amc_tf.models.mobilenet import cifar_mobilenet
from amc_tf.models.resnet import cifar_plain, cifar_resnet
from amc_tf.models.vgg import cifar_vgg16
from amc_tf.models.zoo import load_zoo_model
from amc_tf.twin import to_keras3, to_tf_keras
from tests.harness import randomize, relative_error
from tests.networks import classifier

LIMIT = 1e-5


def paths(model):
    """Paths of the layers with weights; only `tf_keras` allows a slash within a name."""
    return [path.replace("/", "_") for path, layer in iterate_layers(model) if layer.weights]


def other(library, model):
    """The twin in the other flavour."""
    return to_tf_keras(model) if library is keras else to_keras3(model)


def back(library, model):
    return to_keras3(model) if library is keras else to_tf_keras(model)


def check_both_ways(library, model):
    """Rebuilds a model there and back; outputs, names and the number of weights stay."""
    randomize(model)
    shape = [size or 64 for size in model.input_shape[1:]]
    images = np.random.default_rng(0).uniform(-1, 1, (2, *shape)).astype(np.float32)
    expected = np.asarray(model(images, training=False))
    twin = other(library, model)
    again = back(library, twin)

    assert is_tf_keras(twin) is (library is keras)
    assert is_tf_keras(again) is (library is tf_keras)
    assert relative_error(twin(images, training=False), expected) < LIMIT
    assert relative_error(again(images, training=False), expected) < LIMIT
    assert twin.count_params() == again.count_params() == model.count_params()
    assert paths(twin) == paths(again) == paths(model)
    return twin


def squeeze_and_excite(library):
    def body(hidden):
        squeezed = library.layers.GlobalAveragePooling2D(keepdims=True)(hidden)
        gates = library.layers.Conv2D(8, 1, name="gates")(squeezed)
        gates = library.layers.ReLU(6.0)(gates + 3.0) * (1.0 / 6.0)
        return library.layers.Multiply(name="excite")([hidden, gates])

    return classifier(library, body)


def arithmetic(library):
    def body(hidden):
        halves = (1.0 - hidden) / 2.0
        return (hidden - halves) * halves + (hidden - 0.5)

    return classifier(library, body)


def nested_and_shared(library):
    layers = library.layers
    block = library.Sequential(
        [library.Input((8, 8, 8)), layers.Conv2D(8, 1, name="inner"), layers.BatchNormalization(name="norm")],
        name="block",
    )
    shared = layers.Conv2D(8, 3, padding="same", activation="relu6", name="shared")

    def body(hidden):
        return layers.Add(name="sum")([block(shared(hidden)), shared(block(hidden))])

    return classifier(library, body)


def preprocessing(library):
    layers = library.layers
    return library.Sequential(
        [
            library.Input((8, 8, 3)),
            layers.Rescaling(1 / 127.5, offset=-1.0),
            layers.RandomFlip("horizontal"),
            layers.ZeroPadding2D(((0, 1), (0, 1))),
            layers.SeparableConv2D(6, 3, strides=2, name="separable"),
            layers.LeakyReLU(0.2),
            layers.PReLU(shared_axes=[1, 2]),
            layers.LayerNormalization(),
            layers.Conv2DTranspose(4, 3),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(4, activation="softmax"),
        ],
        name="preprocessing",
    )


SMALL = (squeeze_and_excite, arithmetic, nested_and_shared)
NETWORKS = {
    "resnet": lambda: cifar_resnet(8),
    "resnet20": lambda: cifar_resnet(20),
    "plain": lambda: cifar_plain(8),
    "mobilenet": cifar_mobilenet,
    "demo": lambda: load_zoo_model("demo"),
    "vgg": lambda: cifar_vgg16(batch_norm=False),
}
QUICK = ("resnet",)


@pytest.mark.parametrize("make", SMALL)
def test_twins_compute_the_same_both_ways(library, make):
    check_both_ways(library, make(library))


@pytest.mark.slow
def test_layers_that_prepare_images_and_rarer_ones_have_twins(library):
    check_both_ways(library, preprocessing(library))


@pytest.mark.parametrize("name", QUICK)
def test_networks_of_the_toolkit_have_twins(name):
    check_both_ways(keras, NETWORKS[name]())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in QUICK])
def test_all_networks_of_the_toolkit_have_twins(name):
    check_both_ways(keras, NETWORKS[name]())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNet", "MobileNetV2", "MobileNetV3Small", "ResNet50"])
def test_published_architectures_have_twins_both_ways(library, name):
    check_both_ways(library, getattr(library.applications, name)(weights=None, input_shape=(64, 64, 3)))


def test_order_nesting_and_sharing_stay(library):
    model = nested_and_shared(library)
    twin = other(library, model)
    assert paths(twin) == paths(model)
    assert [layer.name for layer in twin.layers] == [layer.name for layer in model.layers]
    assert len(twin.get_layer("shared").weights) == 2


def test_a_model_is_not_changed_and_its_twin_shares_nothing(library):
    model = randomize(nested_and_shared(library))
    before = [array.copy() for array in model.get_weights()]
    twin = other(library, model)
    twin.set_weights([0.0 * array for array in twin.get_weights()])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_what_is_not_trained_and_options_stay(library):
    layers = library.layers

    def body(hidden):
        hidden = layers.Conv2D(
            4, 3, strides=2, trainable=False, kernel_regularizer=library.regularizers.L2(1e-3), name="fixed"
        )(hidden)
        return layers.BatchNormalization(momentum=0.7, epsilon=1e-2, name="norm")(hidden)

    twin = other(library, classifier(library, body))
    fixed, norm = twin.get_layer("fixed"), twin.get_layer("norm")
    assert (fixed.strides, fixed.trainable) == ((2, 2), False)
    assert float(fixed.kernel_regularizer.l2) == pytest.approx(1e-3)
    assert (norm.momentum, norm.epsilon) == (0.7, 1e-2)


def test_a_model_of_the_flavour_asked_for_is_copied(library):
    model = randomize(nested_and_shared(library))
    copy = back(library, model)
    assert type(copy) is type(model)
    assert copy is not model
    np.testing.assert_array_equal(copy.get_weights()[0], model.get_weights()[0])


@pytest.mark.parametrize("activation", ["hard_swish", "hard_sigmoid", "relu6"])
def test_activations_that_keras_2_lacks_or_computes_otherwise_stay_what_they_are(activation):
    model = classifier(keras, keras.layers.Conv2D(6, 1, activation=activation, name="activated"))
    twin = check_both_ways(keras, model)
    copy = clone_with(twin, lambda _, config: config)
    copy_weights(twin, copy)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(copy(images), model(images), rtol=1e-5, atol=1e-6)


def test_the_hard_sigmoid_of_keras_2_is_refused():
    model = classifier(tf_keras, tf_keras.layers.Activation("hard_sigmoid", name="gate"))
    with pytest.raises(ModelError, match=r"'gate' \(Activation\).*hard_sigmoid has another slope in Keras 3"):
        to_keras3(model)


def test_an_adapted_normalization_takes_effect_in_the_twin(library):
    normalization = library.layers.Normalization(name="normalization")
    normalization.adapt(np.random.default_rng(0).normal(5.0, 3.0, (8, 8, 8, 3)))
    images = library.Input((8, 8, 3))
    model = library.Model(images, library.layers.Dense(2)(normalization(images)))
    pixels = np.random.default_rng(1).normal(5.0, 3.0, (2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(other(library, model)(pixels), model(pixels), rtol=1e-4, atol=1e-5)


def test_a_layer_that_one_side_lacks_is_named():
    there = classifier(keras, keras.layers.RMSNormalization(name="rms"))
    with pytest.raises(ModelError, match=r"'rms' \(RMSNormalization\).*tf_keras, which has nothing like it"):
        to_tf_keras(there)
    here = classifier(tf_keras, tf_keras.layers.ThresholdedReLU(name="threshold"))
    with pytest.raises(ModelError, match=r"'threshold' \(ThresholdedReLU\).*keras, which has nothing like"):
        to_keras3(here)


def test_a_layer_of_the_users_own_is_named(library):
    class Double(library.layers.Layer):
        def call(self, inputs):
            return 2.0 * inputs

    with pytest.raises(ModelError, match=r"'twice' \(Double\).*replace it by layers that both"):
        other(library, classifier(library, Double(name="twice")))


def test_an_option_that_one_side_lacks_is_named():
    model = classifier(keras, keras.layers.Resizing(4, 4, antialias=True, name="small"))
    with pytest.raises(ModelError, match=r"'small' \(Resizing\).*antialias=True"):
        to_tf_keras(model)


def test_an_operation_that_one_side_lacks_is_named(library):
    model = classifier(library, lambda hidden: hidden**2.0)
    with pytest.raises(ModelError, match="the operation pow"):
        other(library, model)


def test_a_model_without_a_layer_graph_is_refused(library):
    with pytest.raises(ModelError, match="The Sequential model 'open' is not built: give it a keras.Input"):
        other(library, library.Sequential(name="open"))


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (lambda x: keras.activations.elu(x, alpha=0.3), "operation elu with alpha=0.3"),
        (keras.ops.gelu, "operation gelu with approximate=True"),
    ],
    ids=["elu", "gelu"],
)
def test_operations_with_options_that_a_name_does_not_carry_are_refused(operation, words):
    inputs = keras.Input((3,))
    with pytest.raises(ModelError, match=words):
        to_tf_keras(keras.Model(inputs, operation(inputs)))


@pytest.mark.parametrize("operation", [keras.activations.elu, keras.activations.gelu], ids=["elu", "gelu"])
def test_operations_with_the_usual_options_become_activations(operation):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, operation(inputs))
    values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_allclose(to_tf_keras(model)(values), model(values), atol=1e-6)
