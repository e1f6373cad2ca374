"""The training loop of the shipped networks."""

import keras
import numpy as np

from amc_tf.data import ImageData
from benchmarks.training import Recipe, train


def test_training_learns_and_hands_over_the_last_weights() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = (rng.integers(0, 100, (64, 8, 8, 3)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(8, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    losses: list[float] = []
    recipe = Recipe(epochs=8, warmup_epochs=1, batch_size=16, learning_rate=0.1, norm_momentum=0.5)
    train(
        model,
        ImageData(images, labels, 2),
        recipe=recipe,
        seed=0,
        on_epoch=lambda epoch, loss: losses.append(loss),
    )
    assert len(losses) == 8
    assert losses[-1] < 0.3 < losses[0]
    predictions = np.argmax(model(images.astype(np.float32) / 127.5 - 1), axis=-1)
    np.testing.assert_array_equal(predictions, labels)
