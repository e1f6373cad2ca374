"""Runs TFLite networks on this machine's LiteRT runtime: loading with clear errors, predicting in batches."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from amc_tf.errors import DataError, ModelError, SettingsError

_LOGGER = logging.getLogger(__name__)


def check_num_threads(num_threads: int) -> None:
    """Refuses thread counts that no runtime can use.

    Raises:
        SettingsError: `num_threads` is not an integer of 1 or more.
    """
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
        raise SettingsError(f"num_threads must be an integer of 1 or more, but is {num_threads!r}.")


def load_interpreter(tflite: bytes, *, num_threads: int = 1) -> Any:
    """Returns an `ai_edge_litert` interpreter with its tensors allocated, XNNPACK applied where it can be.

    Args:
        tflite: The contents of a `.tflite` file.
        num_threads: Threads of one inference.

    Raises:
        ModelError: The bytes are no TFLite network, are damaged, or use operators this runtime lacks.
        SettingsError: `num_threads` is below 1.
    """
    check_num_threads(num_threads)
    _check_is_tflite(tflite)
    from ai_edge_litert.interpreter import Interpreter

    try:
        with capture_stderr() as chatter:
            interpreter = Interpreter(model_content=bytes(tflite), num_threads=num_threads)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"The TFLite network ({len(tflite)} bytes) does not load: {last_words(error, chatter)}. "
            "It is damaged or needs operators beyond the built-in ones; convert it again."
        ) from error
    return interpreter


def _check_is_tflite(tflite: bytes) -> None:
    if not isinstance(tflite, (bytes, bytearray, memoryview)):
        raise ModelError(
            f"Expected the bytes of a .tflite file, but got {type(tflite).__name__}; read the file first."
        )
    if len(tflite) == 0:
        raise ModelError("The TFLite network is empty (0 bytes); was its file written completely?")
    if bytes(tflite[4:8]) != b"TFL3":
        raise ModelError(
            f"The {len(tflite)} bytes are no TFLite network: "
            f"bytes 4 to 7 are {bytes(tflite[4:8])!r}, not b'TFL3'."
        )


class TFLiteRunner:
    """Predicts with a TFLite network on this machine, taking and giving float32 whatever its precision.

    Images run one at a time, which is how a phone runs them. Resizing the input to a batch gained nothing on
    a small MobileNet (0.089 ms per image alone, 0.086 to 0.098 ms in batches of 8 to 128), costs a new
    XNNPACK preparation, and fails where a Reshape holds the batch size. Several threads each run an
    interpreter of their own, because one small inference spread over two threads is slower than two side by
    side.

    int8 inputs are rounded to the nearest step of the network's input scale and clipped; int8 outputs are
    multiplied back. Classes whose int8 outputs are equal stay tied, as they are on the phone.
    """

    def __init__(self, tflite: bytes, *, num_threads: int = 1) -> None:
        """Loads the network once per thread.

        Args:
            tflite: The contents of a `.tflite` file with one image input and one output.
            num_threads: How many images run side by side.

        Raises:
            ModelError: The network does not load, or has not exactly one input and one output.
            SettingsError: `num_threads` is below 1.
        """
        check_num_threads(num_threads)
        self._interpreters = [load_interpreter(tflite) for _ in range(num_threads)]
        inputs = self._interpreters[0].get_input_details()
        outputs = self._interpreters[0].get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelError(
                "A classifier has one input and one output, "
                f"but this TFLite network has {len(inputs)} and {len(outputs)}."
            )
        self._input = _Tensor.from_details(inputs[0])
        self._output = _Tensor.from_details(outputs[0])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image, (H, W, C)."""
        return self._input.shape[1:]

    @property
    def output_step(self) -> float:
        """Step between two values of a quantized output, in output units; 0 for a float output."""
        return self._output.scale

    def predict(self, images: Any) -> np.ndarray:
        """Runs every image.

        Args:
            images: float32 [B, H, W, C], in the model's own input range.

        Returns:
            float32 [B, classes].

        Raises:
            DataError: The images have another shape than the network's input.
        """
        images = np.asarray(images, np.float32)
        if images.shape[1:] != self.input_shape:
            raise DataError(
                f"The TFLite network takes images [B, {', '.join(map(str, self.input_shape))}], "
                f"but got {list(images.shape)}; resize them first."
            )
        outputs = np.zeros((len(images), *self._output.shape[1:]), np.float32)
        shares = [
            range(start, len(images), len(self._interpreters)) for start in range(len(self._interpreters))
        ]
        if len(shares) == 1:
            self._predict_share(self._interpreters[0], images, outputs, shares[0])
            return outputs
        with ThreadPoolExecutor(len(shares)) as pool:
            list(pool.map(lambda work: self._predict_share(work[0], images, outputs, work[1]),
                          zip(self._interpreters, shares, strict=True)))  # fmt: skip
        return outputs

    def _predict_share(self, interpreter: Any, images: np.ndarray, outputs: np.ndarray, share: range) -> None:
        for row in share:
            interpreter.set_tensor(self._input.index, self._input.encode(images[row : row + 1]))
            interpreter.invoke()
            outputs[row] = self._output.decode(interpreter.get_tensor(self._output.index))[0]


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """One input or output: real value = scale * (stored value - zero_point); scale 0 means not quantized."""

    index: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    zero_point: int

    @classmethod
    def from_details(cls, details: dict[str, Any]) -> _Tensor:
        scale, zero_point = details["quantization"]
        shape = tuple(int(size) for size in details["shape"])
        return cls(int(details["index"]), shape, np.dtype(details["dtype"]), float(scale), int(zero_point))

    def encode(self, values: np.ndarray) -> np.ndarray:
        if not np.issubdtype(self.dtype, np.integer):
            return values.astype(self.dtype, copy=False)
        limits = np.iinfo(self.dtype)
        stored = np.rint(values / self.scale) + self.zero_point if self.scale else np.rint(values)
        return np.clip(stored, limits.min, limits.max).astype(self.dtype)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        values = stored.astype(np.float32)
        return (values - self.zero_point) * np.float32(self.scale) if self.scale else values


@contextlib.contextmanager
def capture_stderr() -> Iterator[list[str]]:
    """Sends what native code writes to standard error to this module's logger, at level DEBUG.

    The converter and the delegates write to file descriptor 2 directly, past `logging` and `sys.stderr`, and
    would tear the progress bar. Python errors pass through; the yielded list holds the captured lines once
    the block has ended, for an error message. Other threads' standard error is captured with it.
    """
    lines: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as capture:
        saved = os.dup(2)
        os.dup2(capture.fileno(), 2)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            capture.seek(0)
            lines.extend(capture.read().decode(errors="replace").splitlines())
            for line in lines:
                _LOGGER.debug("%s", line)


def last_words(error: BaseException, chatter: list[str]) -> str:
    """Returns what an error says as one line: its `error:` lines if it has any, else its last lines.

    Args:
        error: The error, whose text may be a page of compiler diagnostics.
        chatter: Lines of native code before it, used when the error itself says nothing.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = lines or [line.strip() for line in chatter if line.strip()] or [type(error).__name__]
    diagnoses = [line.partition("error:")[2].strip() for line in lines if "error:" in line]
    words = "; ".join(dict.fromkeys(diagnoses[:3])) or " ".join(lines[-3:])
    return words.rstrip(".: ")
