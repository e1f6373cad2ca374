"""Networks put together at random: what no one thought of must hold, too."""

import numpy as np
import pytest

from tests.harness import check_network
from tests.networks import NUM_CLASSES

NUM_STEPS = 12


class RandomNetwork:
    """Grows a network step by step from tensors [batch, rows, columns, channels] drawn from a pool."""

    def __init__(self, library, seed):
        self._library = library
        self._layers = library.layers
        self._generator = np.random.default_rng(seed)
        self._shared = []
        images = library.Input((8, 8, 3))
        self._pool = [self._layers.Conv2D(8, 3, padding="same")(images)]
        steps = [name for name in dir(self) if name.startswith("step_")]
        for name in self._generator.choice(steps, NUM_STEPS):
            made = getattr(self, name)(self._draw())
            if made is not None:
                self._pool.append(made)
        last = [self._layers.GlobalAveragePooling2D()(tensor) for tensor in self._pool[-2:]]
        hidden = self._layers.Concatenate()(last) if len(last) > 1 else last[0]
        hidden = self._layers.Dense(6, activation="sigmoid")(hidden)  # so that there is something to prune
        self.model = library.Model(images, self._layers.Dense(NUM_CLASSES)(hidden))

    def _draw(self, like=None, axes=slice(1, None)):
        """Draws a tensor, the latest most often; with `like`, one whose shape agrees on some axes."""
        pool = self._pool if like is None else [t for t in self._pool if t.shape[axes] == like.shape[axes]]
        weights = np.arange(1.0, len(pool) + 1) ** 2
        return pool[self._generator.choice(len(pool), p=weights / weights.sum())]

    def _num(self):
        return int(self._generator.integers(2, 9))

    def step_conv(self, tensor):
        size = int(self._generator.choice([1, 3]))
        return self._layers.Conv2D(self._num(), size, padding="same", activation="relu")(tensor)

    def step_wide_conv(self, tensor):
        return self._layers.Conv2D(8, 1, use_bias=False)(tensor)

    def step_grouped(self, tensor):
        groups = 2 if tensor.shape[-1] % 2 == 0 else 1
        return self._layers.Conv2D(8, 3, padding="same", groups=groups)(tensor)

    def step_depthwise(self, tensor):
        multiplier = int(self._generator.integers(1, 3))
        return self._layers.DepthwiseConv2D(3, padding="same", depth_multiplier=multiplier)(tensor)

    def step_separable(self, tensor):
        return self._layers.SeparableConv2D(self._num(), 3, padding="same")(tensor)

    def step_norm(self, tensor):
        return self._layers.BatchNormalization()(tensor)

    def step_prelu(self, tensor):
        return self._layers.PReLU()(tensor)

    def step_layer_norm(self, tensor):
        return self._layers.LayerNormalization()(tensor)

    def step_join(self, tensor):
        kind = self._generator.choice(["Add", "Subtract", "Multiply", "Average", "Maximum"])
        return getattr(self._layers, kind)()([tensor, self._draw(like=tensor)])

    def step_operator(self, tensor):
        return 0.5 - tensor * self._draw(like=tensor)

    def step_concatenate(self, tensor):
        return self._layers.Concatenate()([tensor, self._draw(like=tensor, axes=slice(1, 3))])

    def step_concatenate_rows(self, tensor):
        return self._layers.Concatenate(axis=1)([tensor, self._draw(like=tensor)])

    def step_squeeze_and_excite(self, tensor):
        gate = self._layers.GlobalAveragePooling2D()(tensor)
        gate = self._layers.Dense(self._num(), activation="relu")(gate)
        gate = self._layers.Dense(tensor.shape[-1], activation="sigmoid")(gate)
        return self._layers.Multiply()([tensor, self._layers.Reshape((1, 1, -1))(gate)])

    def step_reshape(self, tensor):
        _, rows, columns, channels = tensor.shape
        if columns % 2:
            return None
        return self._layers.Reshape((rows * 2, columns // 2, channels))(tensor)

    def step_fold_channels(self, tensor):
        _, rows, columns, channels = tensor.shape
        return self._layers.Reshape((rows, 1, columns * channels))(tensor) if channels < 8 else None

    def step_pad(self, tensor):
        return self._layers.Cropping2D(1)(self._layers.ZeroPadding2D(((1, 2), (1, 1)))(tensor))

    def step_shared_conv(self, tensor):
        for layer, channels in self._shared:
            if channels == tensor.shape[-1]:
                return layer(tensor)
        layer = self._layers.Conv2D(self._num(), 1)
        self._shared.append((layer, tensor.shape[-1]))
        return layer(tensor)

    def step_nested(self, tensor):
        inputs = self._library.Input(tensor.shape[1:])
        hidden = self._layers.Conv2D(tensor.shape[-1], 1, activation="relu")(inputs)
        block = self._library.Model(inputs, self._layers.Add()([inputs, hidden]))
        return block(block(tensor))


@pytest.mark.parametrize("seed", range(5))
def test_a_random_network_passes_the_harness(library, seed):
    check_network(RandomNetwork(library, seed).model, seed=seed)


@pytest.mark.slow
def test_many_random_networks_pass_the_harness(library):
    for seed in range(200, 250):
        check_network(RandomNetwork(library, seed).model, seed=seed)
