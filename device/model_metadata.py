"""Adds TFLite Model Metadata to a classifier: what its numbers mean, and the names of its classes.

The format is Google's: a flatbuffer of metadata_schema.fbs (identifier "M001") as the network's buffer
"TFLITE_METADATA", and the file of labels in a ZIP archive behind the network, which Android's tools and
MediaPipe read and every runtime ignores. `tensorflow.org/lite/convert/metadata` describes it.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from amc_tf.device.metadata_schema import (
    FEATURE_PROPERTIES,
    GRAYSCALE,
    IMAGE_PROPERTIES,
    MIN_PARSER_VERSION,
    NORMALIZATION_OPTIONS,
    RGB,
    TENSOR_AXIS_LABELS,
    Table,
    table,
    to_flatbuffer,
)
from amc_tf.device.operators import read_operators
from amc_tf.device.tflite_file import pack, unpack
from amc_tf.errors import ModelError

LABELS_FILE = "labels.txt"

_BUFFER_NAME = "TFLITE_METADATA"
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # equal networks make equal files
_COLOR_SPACES = {1: GRAYSCALE, 3: RGB}  # by number of channels
_PROBABILITIES = ("SOFTMAX", "LOGISTIC")


@dataclasses.dataclass(frozen=True)
class ClassifierMetadata:
    """What the metadata tell of an image classifier.

    Attributes:
        name: of the model.
        description: one or more sentences.
        mean: of each channel, in pixels 0..255.
        std: likewise; (pixel - mean) / std is what the network takes, an int8 network once that is quantised.
        labels: name of each class in the order of the outputs, without line breaks.
    """

    name: str
    description: str
    mean: Sequence[float]
    std: Sequence[float]
    labels: Sequence[str]


@dataclasses.dataclass(frozen=True)
class ClassifierShape:
    """Sizes of a classifier.

    Attributes:
        image_size: (height, width, channels) of its images.
        num_classes: number of its outputs.
        gives_probabilities: whether its last operator is a softmax or a sigmoid.
    """

    image_size: tuple[int, int, int]
    num_classes: int
    gives_probabilities: bool


def read_shape(tflite: bytes) -> ClassifierShape:
    """Reads the sizes of a classifier.

    Args:
        tflite: the contents of a `.tflite` file.

    Raises:
        ModelError: if it is damaged, or not one grey or colour image in, one row of classes out.
    """
    operators = read_operators(tflite)
    graph = unpack(tflite).subgraphs[0]
    inputs, outputs = (
        [tuple(int(size) for size in graph.tensors[index].shape) for index in indices]
        for indices in (graph.inputs, graph.outputs)
    )
    is_classifier = len(inputs) == len(outputs) == 1 and len(inputs[0]) == 4 and len(outputs[0]) == 2
    if not is_classifier or inputs[0][3] not in _COLOR_SPACES:
        raise ModelError(
            f"The TFLite network takes {_sizes(inputs)} and gives {_sizes(outputs)}, but a classifier takes "
            "one image [1, height, width, 1 or 3] and gives one row [1, classes]."
        )
    probabilities = bool(operators) and operators[-1].kind in _PROBABILITIES
    _, height, width, channels = inputs[0]
    return ClassifierShape((height, width, channels), outputs[0][1], probabilities)


def add_metadata(tflite: bytes, metadata: ClassifierMetadata) -> bytes:
    """Returns a classifier with metadata; its operators and weights stay as they are.

    Args:
        tflite: the contents of a `.tflite` file; metadata that it has are replaced.
        metadata: what to tell.

    Raises:
        ModelError: if the network is no image classifier, or has other numbers of classes or channels.
    """
    shape = read_shape(tflite)
    if len(metadata.labels) != shape.num_classes:
        raise ModelError(
            f"There are {len(metadata.labels)} labels, but the TFLite network has {shape.num_classes} "
            "classes: give one for each."
        )
    if not len(metadata.mean) == len(metadata.std) == shape.image_size[2]:
        raise ModelError(
            f"Mean and standard deviation are of {len(metadata.mean)} and {len(metadata.std)} channels, but "
            f"the images of the TFLite network have {shape.image_size[2]}."
        )
    from ai_edge_litert import schema_py_generated as schema

    model = unpack(tflite)
    graph = model.subgraphs[0]
    buffer, entry = schema.BufferT(), schema.MetadataT()
    limits = _limits(graph.tensors[graph.inputs[0]], metadata)
    buffer.data = np.frombuffer(_flatbuffer(metadata, shape, limits), np.uint8)
    entry.name, entry.buffer = _BUFFER_NAME, len(model.buffers)
    model.buffers = [*model.buffers, buffer]
    others = [other for other in model.metadata or [] if other.name != _BUFFER_NAME.encode()]
    model.metadata = [*others, entry]
    return _append_labels(bytes(pack(model)), metadata.labels)


def _sizes(shapes: Sequence[Sequence[int]]) -> str:
    return " and ".join(str(list(shape)) for shape in shapes) or "nothing"


def _limits(tensor: Any, metadata: ClassifierMetadata) -> tuple[np.ndarray, np.ndarray]:
    """Returns what black and white pixels are in the input tensor, one float32 for each channel."""
    pixels = np.array([[0.0], [255.0]])
    values = (pixels - np.asarray(metadata.mean)) / np.asarray(metadata.std)
    scales = tensor.quantization.scale if tensor.quantization is not None else None
    if scales is not None and len(scales):
        limits = np.iinfo(np.int8)  # the only quantised input that `to_tflite` makes
        stored = np.rint(values / scales[0]) + tensor.quantization.zeroPoint[0]
        values = np.clip(stored, limits.min, limits.max)
    black, white = values.astype(np.float32)
    return black, white


def _append_labels(tflite: bytes, labels: Sequence[str]) -> bytes:
    """Appends the file of labels as ZIP archive, stored as it is: the readers on phones unpack nothing."""
    file = io.BytesIO(tflite)
    with zipfile.ZipFile(file, "a") as archive:
        member = zipfile.ZipInfo(LABELS_FILE, _TIMESTAMP)
        member.external_attr = 0o644 << 16
        archive.writestr(member, label_lines(labels))
    return file.getvalue()


def label_lines(labels: Sequence[str]) -> bytes:
    """Returns the contents of a file of labels: UTF-8, one line each."""
    return "".join(f"{label}\n" for label in labels).encode()


def _flatbuffer(
    metadata: ClassifierMetadata, shape: ClassifierShape, limits: tuple[np.ndarray, np.ndarray]
) -> bytes:
    root = table(
        "ModelMetadata",
        name=metadata.name,
        description=metadata.description,
        subgraph_metadata=[
            table(
                "SubGraphMetadata",
                input_tensor_metadata=[_describe_input(metadata, shape, limits)],
                output_tensor_metadata=[_describe_output(shape)],
            )
        ],
        min_parser_version=MIN_PARSER_VERSION,
    )
    return to_flatbuffer(root)


def _describe_input(
    metadata: ClassifierMetadata, shape: ClassifierShape, limits: tuple[np.ndarray, np.ndarray]
) -> Table:
    height, width, channels = shape.image_size
    black, white = limits
    normalization = table(
        "NormalizationOptions",
        mean=np.asarray(metadata.mean, np.float32),
        std=np.asarray(metadata.std, np.float32),
    )
    image = table(
        "ImageProperties",
        color_space=_COLOR_SPACES[channels],
        default_size=table("ImageSize", width=width, height=height),
    )
    return table(
        "TensorMetadata",
        name="image",
        description="The image: (pixel - mean) / std of its pixels 0..255, quantised if the tensor is.",
        content=table("Content", content_properties_type=IMAGE_PROPERTIES, content_properties=image),
        process_units=[table("ProcessUnit", options_type=NORMALIZATION_OPTIONS, options=normalization)],
        stats=table("Stats", max=white, min=black),
    )


def _describe_output(shape: ClassifierShape) -> Table:
    labels = table(
        "AssociatedFile",
        name=LABELS_FILE,
        description="The name of each class, one per line, in the order of the scores.",
        type=TENSOR_AXIS_LABELS,
    )
    name, what = ("probability", "Probability") if shape.gives_probabilities else ("score", "Score")
    features = table("FeatureProperties")
    return table(
        "TensorMetadata",
        name=name,
        description=f"{what} of each class.",
        content=table("Content", content_properties_type=FEATURE_PROPERTIES, content_properties=features),
        associated_files=[labels],
    )
