"""Facts about device/template.py."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers

from amc_tf.device.convert import TFLiteRunner, to_tflite
from amc_tf.device.operators import read_operators
from amc_tf.device.template import TFLiteTemplate
from amc_tf.errors import ModelError
from amc_tf.network import NetworkFunction
from amc_tf.plan import widths_to_plan

IMAGE = (8, 8, 3)


def classifier(body):
    images = keras.Input(IMAGE)
    hidden = layers.Conv2D(8, 3, padding="same", activation="relu")(images)
    return keras.Model(images, layers.Dense(4, activation="softmax")(body(hidden)))


def pooled(body):
    return lambda hidden: layers.GlobalAveragePooling2D()(body(hidden))


def gate(hidden):
    squeezed = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(hidden))
    squeezed = layers.Conv2D(4, 1, activation="relu")(squeezed)
    opened = layers.Activation("hard_sigmoid")(layers.Conv2D(8, 1)(squeezed))
    return layers.Multiply()([hidden, opened])


BODIES = {
    "flattened": lambda hidden: layers.Flatten()(hidden),
    "pooled to one pixel": lambda hidden: layers.Flatten()(
        layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D(keepdims=True)(hidden))
    ),
    "depthwise": pooled(lambda hidden: layers.ReLU(6.0)(layers.DepthwiseConv2D(3)(hidden))),
    "without biases": pooled(layers.Conv2D(6, 3, use_bias=False)),
    "strided, padded": pooled(
        lambda hidden: layers.Conv2D(6, 3, strides=2)(layers.ZeroPadding2D(((0, 1), (0, 1)))(hidden))
    ),
    "added": pooled(lambda hidden: layers.Add()([hidden, layers.Conv2D(8, 3, padding="same")(hidden)])),
    "joined": pooled(lambda hidden: layers.Concatenate()([hidden, layers.Conv2D(6, 1)(hidden)])),
    "squeezed and excited": pooled(gate),
}


def converted(network, weights):
    return to_tflite(network.bind(weights), input_shape=network.input_shape)


def halved(network, weights):
    return network.slice(
        widths_to_plan(network.graph, [group.num_channels // 2 for group in network.graph.groups]), weights
    )


def make_network(body):
    model = classifier(body)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.5, weight.shape) for weight in model.weights])
    return NetworkFunction(model)


def other_weights(network):
    return {
        path: {name: array[::-1].copy() for name, array in arrays.items()}
        for path, arrays in network.weights.items()
    }


@pytest.mark.parametrize("name", BODIES)
def test_the_network_is_the_one_that_conversion_makes(name):
    network = make_network(BODIES[name])
    template = TFLiteTemplate(converted(network, network.weights), network.fold(network.weights))
    slim = halved(network, other_weights(network))

    found, expected = template.fill(network.fold(slim)), converted(network, slim)

    assert read_operators(found) == read_operators(expected)
    images = np.random.default_rng(0).normal(size=(4, *IMAGE)).astype(np.float32)
    np.testing.assert_array_equal(TFLiteRunner(found).predict(images), TFLiteRunner(expected).predict(images))


def test_a_network_can_be_filled_again_and_again():
    network = make_network(BODIES["flattened"])
    template = TFLiteTemplate(converted(network, network.weights), network.fold(network.weights))
    full, slim = network.fold(network.weights), network.fold(halved(network, network.weights))
    first = template.fill(full)
    assert template.fill(slim) != first
    assert template.fill(full) == first


def test_constants_are_aligned_as_the_schema_asks_for():
    network = make_network(BODIES["joined"])
    template = TFLiteTemplate(converted(network, network.weights), network.fold(network.weights))
    model = schema.Model.GetRootAs(template.fill(network.fold(network.weights)), 0)
    buffers = [model.Buffers(index) for index in range(model.BuffersLength())]
    starts = [buffer._tab.Vector(buffer._tab.Offset(4)) for buffer in buffers if buffer.DataLength()]
    assert len(starts) > 6
    assert all(start % 16 == 0 for start in starts)


def test_shapes_that_are_written_are_those_of_the_slim_network():
    network = make_network(BODIES["squeezed and excited"])
    template = TFLiteTemplate(converted(network, network.weights), network.fold(network.weights))
    model = schema.ModelT.InitFromPackedBuf(template.fill(network.fold(halved(network, network.weights))), 0)
    graph = model.subgraphs[0]
    shapes = {tuple(tensor.shape) for tensor in graph.tensors if tensor.shape is not None}
    assert (1, 8, 8, 4) in shapes
    assert (1, 8, 8, 8) not in shapes
    asked = [
        bytes(model.buffers[graph.tensors[node.inputs[1]].buffer].data)
        for node in graph.operators
        if model.operatorCodes[node.opcodeIndex].builtinCode == schema.BuiltinOperator.RESHAPE
    ]
    assert [np.frombuffer(shape, np.int32).tolist() for shape in asked] == [[1, 1, 1, 4]]


def test_a_constant_that_is_no_weight_is_refused():
    network = make_network(pooled(layers.BatchNormalization()))
    markers = {path: arrays for path, arrays in network.fold(network.weights).items() if len(arrays) < 3}
    with pytest.raises(ModelError, match=r"is no weight of a layer"):
        TFLiteTemplate(converted(network, network.weights), markers)
