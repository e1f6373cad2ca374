"""Facts about amc_tf/distillation.py."""

import keras
import numpy as np

from amc_tf.distillation import are_probabilities, distillation_loss, soften, to_log_probabilities


def test_distillation_loss_equals_a_hand_computation():
    labels = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
    student = np.log(np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]], np.float32))
    teacher = np.array([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5]], np.float32)
    loss = distillation_loss(labels, teacher, student, weight=0.25, temperature=2.0)
    expected = []
    for label, guide, probabilities in zip((0, 2), teacher, np.exp(student), strict=True):
        roots = np.sqrt(probabilities) / np.sqrt(probabilities).sum()  # the softmax at temperature 2
        divergence = sum(g * np.log(g / p) for g, p in zip(guide, roots, strict=True) if g > 0)
        expected.append(0.75 * -np.log(probabilities[label]) + 0.25 * 4.0 * divergence)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loss), expected, rtol=1e-5)


def test_soften_takes_logits_and_probabilities():
    logits = np.array([[2.0, 0.0, -4.0]], np.float32)
    at_two = np.exp([[1.0, 0.0, -2.0]]) / np.exp([[1.0, 0.0, -2.0]]).sum()
    np.testing.assert_allclose(soften(logits, 2.0, has_softmax=False), at_two, rtol=1e-6)
    probabilities = soften(logits, 1.0, has_softmax=False)
    np.testing.assert_allclose(soften(probabilities, 2.0, has_softmax=True), at_two, rtol=1e-5)
    assert np.isfinite(soften(np.array([[1.0, 0.0]]), 4.0, has_softmax=True)).all()


def test_probabilities_are_told_from_logits():
    assert are_probabilities(np.array([[0.25, 0.75], [1.0, 0.0]]))
    assert not are_probabilities(np.array([[0.25, 0.75], [2.0, -1.0]]))
    assert not are_probabilities(np.array([[0.25, 0.75], [0.9, 0.9]]))


def test_logits_and_probabilities_have_the_same_logarithms():
    logits = np.array([[2.0, 0.0, -4.0]], np.float32)
    probabilities = soften(logits, 1.0, has_softmax=False)
    from_logits = keras.ops.convert_to_numpy(to_log_probabilities(logits, has_softmax=False))
    from_probabilities = keras.ops.convert_to_numpy(to_log_probabilities(probabilities, has_softmax=True))
    np.testing.assert_allclose(from_logits, from_probabilities, atol=1e-5)
    assert np.isfinite(
        keras.ops.convert_to_numpy(to_log_probabilities(np.array([[1.0, 0.0]]), has_softmax=True))
    ).all()
