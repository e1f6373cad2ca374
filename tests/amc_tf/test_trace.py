import keras
import numpy as np
import pytest

from amc_tf.errors import ModelError
from amc_tf.trace import TensorRef, outputs_by_layer, trace_model
from tests.networks import classifier


def test_calls_come_in_network_order_with_their_shapes(library):
    trace = trace_model(classifier(library, library.layers.Conv2D(6, 3, strides=2, name="conv")))

    assert [call.path for call in trace.calls][:2] == ["first", "conv"]
    assert trace.calls[-1].path == "classes"
    assert trace.input_shapes == ((8, 8, 3),)
    assert trace.calls[1].input_shapes == ((8, 8, 8),)
    assert trace.calls[1].output_shapes == ((3, 3, 6),)


def test_the_largest_map_from_a_call_on_limits_the_images(library):
    trace = trace_model(classifier(library, library.layers.Conv2D(6, 3, strides=2, name="conv")))
    first, last = 8 * 8 * 8 * 4, 3 * 3 * 6 * 4  # bytes of the maps before and behind "conv"

    assert trace.most_images(2 * first) == 2
    assert trace.most_images(2 * first - 1) == 1
    assert trace.most_images(first - 1) == 1
    assert trace.most_images(5 * last, start=2) == 5


def test_outputs_are_those_in_the_model_that_is_asked_for(library):
    """And not those of the layers' first calls, in another model."""
    first = classifier(library, library.layers.Conv2D(6, 3, name="conv"))
    again = library.Sequential([library.layers.Input((8, 8, 3)), *first.layers[1:]])

    outputs = outputs_by_layer(again)

    view = library.Model(again.inputs, outputs["conv"])
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    same = library.Model(first.inputs, first.get_layer("conv").output)
    np.testing.assert_allclose(view.predict_on_batch(images), same.predict_on_batch(images), atol=1e-6)


def test_every_tensor_is_made_before_it_is_read(library):
    def body(hidden):
        left = library.layers.Conv2D(8, 1)(hidden)
        return library.layers.Add()([hidden, library.layers.ReLU()(left), left])

    trace = trace_model(classifier(library, body))

    known = set(trace.inputs)
    for call in trace.calls:
        assert set(call.inputs) <= known
        assert not known & set(call.outputs)
        known |= set(call.outputs)
    assert set(trace.outputs) <= known


def test_nested_models_are_entered_and_named_by_path(library):
    inner = library.Sequential(
        [library.Input((8, 8, 8)), library.layers.Conv2D(8, 1, name="conv")], name="inner"
    )
    outer = library.Sequential(
        [library.Input((8, 8, 8)), inner, library.layers.ReLU(name="relu")], name="outer"
    )
    trace = trace_model(classifier(library, outer))
    paths = [call.path for call in trace.calls if "input" not in call.path]
    assert paths[:3] == ["first", "outer/inner/conv", "outer/relu"]


def test_the_inputs_of_nested_models_are_calls_that_pass_the_tensor_on(library):
    given = library.Input((8, 8, 8), name="given")
    inner = library.Model(given, library.layers.Conv2D(8, 1)(given), name="inner")
    call = trace_model(classifier(library, inner)).calls[1]
    assert call.path == "inner/given"
    assert call.input_shapes == call.output_shapes == ((8, 8, 8),)


def test_a_shared_layer_is_called_twice_under_one_path(library):
    shared = library.layers.Conv2D(8, 1, name="shared")
    trace = trace_model(classifier(library, lambda hidden: shared(shared(hidden))))
    calls = [call for call in trace.calls if call.path == "shared"]
    assert len(calls) == 2
    assert calls[0].layer is calls[1].layer
    assert calls[0].outputs == calls[1].inputs


def test_a_shared_nested_model_is_recorded_twice(library):
    inner = library.Sequential(
        [library.Input((8, 8, 8)), library.layers.Conv2D(8, 1, name="conv")], name="inner"
    )
    trace = trace_model(
        classifier(library, lambda hidden: library.layers.Add()([inner(hidden), inner(hidden)]))
    )
    assert [call.path for call in trace.calls].count("inner/conv") == 2


def test_the_arguments_of_operators_are_kept(library):
    trace = trace_model(classifier(library, lambda hidden: 1.0 - hidden))
    call = trace.calls[1]
    leaves = [*call.args, *call.kwargs.values()]
    assert [float(leaf) for leaf in leaves if not isinstance(leaf, TensorRef)] == [1.0]
    (result,) = call.replay([np.float32(0.25)])
    assert float(result) == 0.75


def test_a_model_for_images_of_any_size_is_read_at_the_usual_size():
    images = keras.Input((None, None, 3))
    hidden = keras.layers.Conv2D(8, 3, strides=2, name="first")(images)
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    model = keras.Model(images, keras.layers.Dense(4)(hidden))

    assert trace_model(model).input_shapes == ((224, 224, 3),)
    trace = trace_model(model, image_size=(32, 48))
    assert trace.calls[0].output_shapes == ((15, 23, 8),)
    np.testing.assert_array_equal(trace.calls[0].layer.kernel, model.layers[1].kernel)
    assert model.input_shape == (None, None, None, 3)


def test_another_open_axis_is_refused_with_the_remedy(library):
    model = library.Sequential([library.Input((None, 8)), library.layers.Dense(4)])
    with pytest.raises(ModelError, match="open shape .*build the model for one size"):
        trace_model(model)


@pytest.mark.parametrize("build", [False, True])
def test_a_sequential_model_must_be_built(library, build):
    model = library.Sequential(
        [library.layers.Conv2D(8, 3), library.layers.Flatten(), library.layers.Dense(4)]
    )
    if build:
        model.build((None, 8, 8, 3))
        assert trace_model(model).input_shapes == ((8, 8, 3),)
    else:
        with pytest.raises(ModelError, match="is not built: give it a keras.Input, or call"):
            trace_model(model)


def test_a_subclassed_model_is_refused_with_the_remedy(library):
    class Subclassed(library.Model):
        def __init__(self):
            super().__init__()
            self.dense = library.layers.Dense(4)

        def call(self, inputs):
            return self.dense(inputs)

    model = Subclassed()
    model(np.zeros((1, 8), np.float32))
    with pytest.raises(ModelError, match="Subclassed has no layer graph .*keras.Model"):
        trace_model(model)


@pytest.mark.parametrize("value", [None, "model.keras", 3, object(), [1, 2]])
def test_what_is_no_model_is_refused(value):
    with pytest.raises(ModelError, match="a functional or Sequential Keras model was expected"):
        trace_model(value)


def test_a_single_layer_is_refused(library):
    with pytest.raises(ModelError, match="Dense has no layer graph"):
        trace_model(library.layers.Dense(3))
