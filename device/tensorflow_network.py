"""Runs a float32 TFLite network as a compiled TensorFlow function, on any device and with any batch size.

TFLite has no runtime for the GPU of a workstation, and what is timed everywhere in this package is a TFLite
network. Its operators are therefore written as TensorFlow's, which differ in the layout of kernels only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from amc_tf.errors import MeasurementError, ModelError

Run = Callable[[], np.ndarray]


def list_gpus() -> list[str]:
    """Returns TensorFlow's names of this machine's GPUs, such as "/GPU:0"."""
    import tensorflow as tf

    return [f"/GPU:{number}" for number in range(len(tf.config.list_physical_devices("GPU")))]


def check_device(device: str) -> None:
    """Refuses a device that is not there, in whose place TensorFlow would quietly take the CPU.

    Raises:
        MeasurementError: There is no such device; the message lists those that there are.
    """
    import tensorflow as tf

    known = [item.name.removeprefix("/device:") for item in tf.config.list_logical_devices()]
    names = [f"/{name}" for name in known]
    if device not in names:
        raise MeasurementError(f"There is no device {device} here; there are {', '.join(names)}.")


def describe_device(device: str) -> str:
    """Returns what a device is, such as "NVIDIA T4", or its name where TensorFlow knows no more.

    Args:
        device: TensorFlow's name, such as "/GPU:0".
    """
    import tensorflow as tf

    kind, number = device.strip("/").split(":")
    physical = tf.config.list_physical_devices(kind)[int(number)]
    return str(tf.config.experimental.get_device_details(physical).get("device_name", device))


def tensorflow_version() -> str:
    """Returns the version of the runtime."""
    import tensorflow as tf

    return str(tf.__version__)


def compiles_with_xla(device: str) -> bool:
    """Tells whether XLA compiles for a device, by trying it."""
    import tensorflow as tf

    try:
        with tf.device(device):
            tf.function(tf.nn.relu, jit_compile=True)(tf.ones((2, 2))).numpy()
    except (tf.errors.OpError, ValueError):
        return False
    return True


def load_network(tflite: bytes, *, device: str, batch_size: int, xla: bool) -> Run:
    """Loads a network with random input and returns the function that runs it once.

    The function returns when the result has been read back, so that the device has finished.

    Args:
        tflite: The contents of a float32 `.tflite` file with one input and one output.
        device: TensorFlow's name, such as "/GPU:0".
        batch_size: Images of one run; 1 or more.
        xla: Whether XLA compiles the function.

    Returns:
        A function that runs the network and returns its outputs, float32 [B, classes].

    Raises:
        ModelError: The bytes are no such network, or it has an operator that is not known here.
        MeasurementError: The device cannot run it.
    """
    import tensorflow as tf

    network = TensorFlowNetwork(tflite)
    run = network.compile(device, xla=xla)
    images = np.random.default_rng(0).uniform(-1, 1, (batch_size, *network.input_shape)).astype(np.float32)
    with tf.device(device):
        placed = tf.constant(images)
    return lambda: run(placed)


class TensorFlowNetwork:
    """A float32 TFLite network that TensorFlow runs.

    Attributes:
        input_shape: (height, width, channels) of one image.
    """

    def __init__(self, tflite: bytes) -> None:
        """Reads the network; nothing is run.

        Args:
            tflite: The contents of a `.tflite` file; only its first subgraph is read.

        Raises:
            ModelError: The bytes are no network of one float32 input and one output, or an operator is
                unknown.
        """
        from ai_edge_litert import schema_py_generated as schema

        if bytes(tflite[4:8]) != b"TFL3":
            raise ModelError(f"The {len(tflite)} bytes are no TFLite network.")
        try:
            model = schema.ModelT.InitFromPackedBuf(bytes(tflite), 0)
            self._graph = model.subgraphs[0]
            self._types = _names(schema.TensorType)
            self._kinds = [_kind(code, _names(schema.BuiltinOperator)) for code in model.operatorCodes]
            self._constants = self._read_constants(model.buffers)
        except Exception as error:  # a damaged offset leads to whatever stands where it points
            raise ModelError(
                f"The TFLite network ({len(tflite)} bytes) cannot be read: {error!r}."
            ) from error
        self._activations = _names(schema.ActivationFunctionType)
        self._check()
        self.input_shape = tuple(int(size) for size in self._graph.tensors[self._graph.inputs[0]].shape[1:])

    def compile(self, device: str, *, xla: bool) -> Callable[[Any], np.ndarray]:
        """Returns a function of images, float32 [B, H, W, C], that runs on a device and waits for its end.

        Images may be an array or a tensor that lies on the device already. The first call compiles; images of
        another batch size do it again. A device that cannot run the network raises a `MeasurementError`.

        Args:
            device: TensorFlow's name, such as "/GPU:0".
            xla: Whether XLA compiles the function.
        """
        import tensorflow as tf

        with tf.device(device):
            constants = {index: tf.constant(value) for index, value in self._kernels().items()}
        function = tf.function(
            lambda images: self._run(tf, images, constants), jit_compile=xla, autograph=False
        )

        def run(images: Any) -> np.ndarray:
            try:
                with tf.device(device):
                    return np.asarray(function(tf.convert_to_tensor(images)).numpy())
            except tf.errors.OpError as error:
                reason = (error.message or type(error).__name__).splitlines()[0]
                raise MeasurementError(f"{device} cannot run the network: {reason}.") from error

        return run

    def _check(self) -> None:
        graph = self._graph
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise ModelError(
                f"The network has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; one of each "
                "was expected."
            )
        kind = self._types[graph.tensors[graph.inputs[0]].type]
        if kind != "FLOAT32":
            raise ModelError(f"The network takes {kind.lower()} images; only float32 networks run here.")
        unknown = sorted({self._kind(node) for node in graph.operators} - set(_OPERATORS))
        if unknown:
            raise ModelError(f"The network has operators that are not known here: {', '.join(unknown)}.")
        kernels = {int(node.inputs[1]) for node in graph.operators if self._kind(node) in _LAYOUTS}
        packed = [index for index in kernels if self._constants[index].dtype != np.float32]
        if packed:
            raise ModelError("The network has kernels that are not float32; only float32 networks run here.")

    def _kind(self, node: Any) -> str:
        return self._kinds[node.opcodeIndex]

    def _read_constants(self, buffers: Sequence[Any]) -> dict[int, np.ndarray]:
        """Returns the constant tensors by index."""
        constants = {}
        for index, tensor in enumerate(self._graph.tensors):
            data = buffers[tensor.buffer].data
            if tensor.sparsity is not None:
                raise ModelError("The network has sparse kernels, which run in LiteRT only.")
            if data is not None and len(data):
                dtype = np.dtype(self._types[tensor.type].lower())
                shape = () if tensor.shape is None else tuple(tensor.shape)
                constants[index] = np.frombuffer(bytes(data), dtype).reshape(shape)
        return constants

    def _kernels(self) -> dict[int, np.ndarray]:
        """Returns the constants, kernels in the layout of TensorFlow."""
        arrays = dict(self._constants)
        for node in self._graph.operators:
            layout = _LAYOUTS.get(self._kind(node))
            if layout is not None:
                channels = int(self._graph.tensors[node.inputs[0]].shape[-1])
                arrays[int(node.inputs[1])] = layout(self._constants[int(node.inputs[1])], channels)
        return arrays

    def _run(self, tf: Any, images: Any, constants: dict[int, Any]) -> Any:
        graph = self._graph
        values = {**constants, int(graph.inputs[0]): images}
        for node in graph.operators:
            inputs = [values[int(index)] for index in node.inputs if index >= 0]
            kind, options = self._kind(node), node.builtinOptions
            if kind in _SHAPED:
                # What TFLite holds as one image of the network is a batch of them here.
                shape = [-1, *(int(size) for size in graph.tensors[node.outputs[0]].shape[1:])]
                result = tf.reshape(inputs[0], shape)
            else:
                static = [self._constants.get(int(index)) for index in node.inputs if index >= 0]
                result = _OPERATORS[kind](tf, options, inputs, static)
            activation = self._activations[getattr(options, "fusedActivationFunction", 0)]
            values[int(node.outputs[0])] = _ACTIVATIONS[activation](tf, result)
        return values[int(graph.outputs[0])]


def _names(enum: Any) -> dict[int, str]:
    return {code: name for name, code in vars(enum).items() if type(code) is int}


def _kind(code: Any, names: dict[int, str]) -> str:
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return names.get(number, f"OPERATOR_{number}")


def _padding(options: Any) -> str:
    return "VALID" if options.padding else "SAME"


def _convolution(tf: Any, options: Any, inputs: Sequence[Any], static: Sequence[Any]) -> Any:
    result = tf.nn.conv2d(
        inputs[0],
        inputs[1],
        strides=(options.strideH, options.strideW),
        padding=_padding(options),
        dilations=(options.dilationHFactor, options.dilationWFactor),
    )
    return result + inputs[2] if len(inputs) > 2 else result


def _depthwise(tf: Any, options: Any, inputs: Sequence[Any], static: Sequence[Any]) -> Any:
    result = tf.nn.depthwise_conv2d(
        inputs[0],
        inputs[1],
        strides=(1, options.strideH, options.strideW, 1),
        padding=_padding(options),
        dilations=(options.dilationHFactor, options.dilationWFactor),
    )
    return result + inputs[2] if len(inputs) > 2 else result


def _dense(tf: Any, options: Any, inputs: Sequence[Any], static: Sequence[Any]) -> Any:
    images = inputs[0] if options.keepNumDims else tf.reshape(inputs[0], (-1, inputs[1].shape[0]))
    result = tf.matmul(images, inputs[1])
    return result + inputs[2] if len(inputs) > 2 else result


def _pool(pooling: str) -> Callable[..., Any]:
    return lambda tf, options, inputs, static: tf.nn.pool(
        inputs[0],
        (options.filterHeight, options.filterWidth),
        pooling,
        strides=(options.strideH, options.strideW),
        padding=_padding(options),
    )


def _mean(tf: Any, options: Any, inputs: Sequence[Any], static: Sequence[Any]) -> Any:
    return tf.reduce_mean(inputs[0], axis=tuple(np.ravel(static[1]).tolist()), keepdims=options.keepDims)


def _elementwise(name: str) -> Callable[..., Any]:
    return lambda tf, options, inputs, static: getattr(tf, name)(*inputs)


def _activation(name: str) -> Callable[..., Any]:
    return lambda tf, options, inputs, static: getattr(tf.nn, name)(inputs[0])


def _dense_layout(kernel: np.ndarray, channels: int) -> np.ndarray:
    return np.ascontiguousarray(kernel.T)  # [out, in] -> [in, out]


def _convolution_layout(kernel: np.ndarray, channels: int) -> np.ndarray:
    return np.ascontiguousarray(kernel.transpose(1, 2, 3, 0))  # [out, h, w, in] -> [h, w, in, out]


def _depthwise_layout(kernel: np.ndarray, channels: int) -> np.ndarray:
    return kernel.reshape(*kernel.shape[1:3], channels, -1)  # [1, h, w, in * m] -> [h, w, in, m]


# Name of TFLite -> function of TensorFlow, options, inputs and those of them that are constant, as arrays.
_OPERATORS: dict[str, Callable[..., Any]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _dense,
    "AVERAGE_POOL_2D": _pool("AVG"),
    "MAX_POOL_2D": _pool("MAX"),
    "MEAN": _mean,
    "PAD": lambda tf, options, inputs, static: tf.pad(inputs[0], static[1].tolist()),
    "CONCATENATION": lambda tf, options, inputs, static: tf.concat(inputs, options.axis),
    "RESHAPE": _elementwise("reshape"),
    "SQUEEZE": _elementwise("reshape"),
    "EXPAND_DIMS": _elementwise("reshape"),
    "ADD": _elementwise("add"),
    "SUB": _elementwise("subtract"),
    "MUL": _elementwise("multiply"),
    "DIV": _elementwise("divide"),
    "MAXIMUM": _elementwise("maximum"),
    "MINIMUM": _elementwise("minimum"),
    "RELU": _activation("relu"),
    "RELU6": _activation("relu6"),
    "TANH": _activation("tanh"),
    "LOGISTIC": _activation("sigmoid"),
    "SOFTMAX": lambda tf, options, inputs, static: tf.nn.softmax(options.beta * inputs[0]),
    "HARD_SWISH": lambda tf, options, inputs, static: inputs[0] * tf.nn.relu6(inputs[0] + 3.0) / 6.0,
    "LEAKY_RELU": lambda tf, options, inputs, static: tf.nn.leaky_relu(inputs[0], options.alpha),
}
_SHAPED = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_LAYOUTS = {
    "CONV_2D": _convolution_layout,
    "DEPTHWISE_CONV_2D": _depthwise_layout,
    "FULLY_CONNECTED": _dense_layout,
}
_ACTIVATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "NONE": lambda tf, value: value,
    "RELU": lambda tf, value: tf.nn.relu(value),
    "RELU6": lambda tf, value: tf.nn.relu6(value),
    "RELU_N1_TO_1": lambda tf, value: tf.clip_by_value(value, -1.0, 1.0),
    "TANH": lambda tf, value: tf.tanh(value),
}
