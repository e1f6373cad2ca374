"""The sparsity plan: how many weights each layer keeps; which ones, their magnitudes decide."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc_tf.errors import PlanError
from amc_tf.files import is_intact, with_checksum
from amc_tf.sparse_layers import SparseLayers
from amc_tf.weights import Weights

FORMAT = "amc-tf sparsity plan 1"


@dataclasses.dataclass(frozen=True)
class SparsityPlan:
    """How many weights of each layer's kernel are kept.

    Attributes:
        kept: number of weights that stay, by layer path; a layer left out keeps all.
        num_weights: weights of each of these kernels before pruning.
    """

    kept: Mapping[str, int]
    num_weights: Mapping[str, int]

    def __post_init__(self) -> None:
        if set(self.kept) != set(self.num_weights):
            raise PlanError("A sparsity plan must give kept and all weights of the same layers.")
        for name, kept in self.kept.items():
            count = self.num_weights[name]
            if type(kept) is not int or type(count) is not int:
                raise PlanError(
                    f"The sparsity plan gives {kept!r} of {count!r} weights of '{name}': whole numbers were "
                    "expected."
                )
            if not 1 <= kept <= count:
                raise PlanError(f"'{name}' has {count} weights: a plan cannot keep {kept} of them.")

    @classmethod
    def from_widths(cls, layers: SparseLayers, widths: Sequence[int]) -> SparsityPlan:
        """Makes the plan that keeps `widths[t]` weights of layer t.

        Raises:
            PlanError: if a number is not between 1 and the weights of its layer.
        """
        if len(widths) != len(layers.groups):
            raise PlanError(f"{len(widths)} numbers of weights were given for {len(layers.groups)} layers.")
        kept = {layer.path: int(width) for layer, width in zip(layers.groups, widths, strict=True)}
        return cls(kept, {layer.path: layer.num_weights for layer in layers.groups})

    def validate(self, layers: SparseLayers) -> None:
        """Checks that the plan belongs to a network.

        Raises:
            PlanError: naming the first layer that the network does not have or that has another size.
        """
        sizes = {layer.path: layer.num_weights for layer in layers.groups}
        name = layers.graph.trace.name
        for path, count in self.num_weights.items():
            if path not in sizes:
                listed = ", ".join(list(sizes)[:5]) + (", ..." if len(sizes) > 5 else "")
                raise PlanError(
                    f"The sparsity plan prunes '{path}', which '{name}' does not have (its layers: "
                    f"{listed}): it is the plan of another model."
                )
            if sizes[path] != count:
                raise PlanError(
                    f"The sparsity plan is for {count} weights in '{path}', but '{name}' has {sizes[path]}: "
                    "it is the plan of another model."
                )

    def widths(self, layers: SparseLayers) -> tuple[int, ...]:
        """Returns the number of kept weights of each layer of a network."""
        return tuple(self.kept.get(layer.path, layer.num_weights) for layer in layers.groups)

    def sparsity(self, path: str) -> float:
        """Returns the part of a layer's weights that is zero, in [0, 1)."""
        return 1.0 - self.kept[path] / self.num_weights[path]

    def mask(self, path: str, kernel: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Tells which weights of a kernel stay: the largest by magnitude, of equals the first.

        Raises:
            PlanError: if the kernel has another number of weights.
        """
        if kernel.size != self.num_weights[path]:
            raise PlanError(
                f"The sparsity plan is for {self.num_weights[path]} weights in '{path}', but its kernel has "
                f"{kernel.size}."
            )
        return largest(kernel, self.kept[path])

    def apply(self, weights: Weights) -> Weights:
        """Sets the weights that the plan removes to zero; the arrays given are not changed.

        Args:
            weights: by layer path and weight name.
        """
        masked = dict(weights)
        for path in self.kept:
            kernel = weights[path]["kernel"]
            masked[path] = {**weights[path], "kernel": kernel * self.mask(path, kernel)}
        return masked

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as JSON-compatible values, with a checksum of them."""
        layers = {
            path: {"num_weights": self.num_weights[path], "kept": kept} for path, kept in self.kept.items()
        }
        return with_checksum({"format": FORMAT, "layers": layers})

    @classmethod
    def from_json(cls, value: Any) -> SparsityPlan:
        """Reads a plan from JSON-compatible values.

        Raises:
            PlanError: if they are not a sparsity plan.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise PlanError(f'This is no sparsity plan: "format": "{FORMAT}" was expected at the top.')
        if not is_intact(value):
            raise PlanError(
                'It is not what was written: copy it again, or, if you changed it, delete its line "sha256".'
            )
        try:
            layers = value["layers"].items()
            kept = {path: layer["kept"] for path, layer in layers}
            counts = {path: layer["num_weights"] for path, layer in layers}
        except (KeyError, TypeError, AttributeError) as error:
            message = f'A sparsity plan needs "layers", each with "kept" and "num_weights": {error!r}.'
            raise PlanError(message) from error
        return cls(kept, counts)

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON."""
        Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> SparsityPlan:
        """Reads a plan written by `save`.

        Raises:
            PlanError: if there is no such file, or it holds no sparsity plan.
        """
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise PlanError(f"The sparsity plan '{path}' cannot be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise PlanError(f"The sparsity plan '{path}' is damaged: {error}") from error


def largest(kernel: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    """Tells which `count` elements of an array are the largest by magnitude, of equals the first."""
    order = np.argsort(-np.abs(kernel), axis=None, kind="stable")
    mask = np.zeros(kernel.size, np.bool_)
    mask[order[:count]] = True
    return mask.reshape(kernel.shape)
