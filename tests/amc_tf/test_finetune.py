"""Facts about amc_tf/finetune.py, on a network of one convolution and images of 8x8."""

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from amc_tf import fused_norm
from amc_tf.errors import DataError, ModelError, SettingsError
from amc_tf.evaluate import Accuracy
from amc_tf.finetune import _quicken_batch_norm, finetune
from amc_tf.image_data import ImageData
from amc_tf.plan import PruningPlan
from amc_tf.rebuild import rebuild
from amc_tf.settings import FinetuneSettings

CLASSES = 3


def toy_data(count, seed):
    """Images whose class is the colour channel that is brightest."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    images = rng.integers(0, 140, (count, 8, 8, 3))
    images[np.arange(count), :, :, labels] += 60
    return ImageData(images.astype(np.uint8), labels.astype(np.int64), CLASSES, ("red", "green", "blue"))


def toy_model(activation="softmax", flavour=keras, dropout=0.0):
    flavour.utils.set_random_seed(0)
    layers = flavour.layers
    return flavour.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(4, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dropout(dropout, name="dropout"),
            layers.Dense(CLASSES, activation=activation, name="classes"),
        ]
    )


def settings(**changes):
    values = {"epochs": 3, "batch_size": 16, "optimizer": "sgd", "learning_rate": 0.1, "augment": "none"}
    return FinetuneSettings(**{**values, **changes})


def tune(model, *, teacher=None, plan=None, on_epoch=None, **changes):
    return finetune(
        model,
        toy_data(160, seed=1),
        toy_data(64, seed=2),
        settings=settings(**changes),
        input_range="-1..1",
        teacher=teacher,
        plan=plan,
        on_epoch=on_epoch,
    )


def frozen_backbone(flavour):
    """The commonest transfer-learning model: a frozen network under a new classifier."""
    flavour.utils.set_random_seed(0)
    layers = flavour.layers
    inputs = flavour.Input((8, 8, 3))
    hidden = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv")(inputs))
    backbone = flavour.Model(inputs, layers.ReLU()(hidden), name="backbone")
    backbone.trainable = False
    images = flavour.Input((8, 8, 3))
    features = layers.GlobalAveragePooling2D()(backbone(images, training=False))
    return flavour.Model(images, layers.Dense(CLASSES, name="classes")(features))


def same_weights(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first.get_weights(), second.get_weights(), strict=True))


class Run:
    """One fine-tuning of an untrained network, which several tests look at."""

    def __init__(self):
        self.given = toy_model()
        self.weights_before = self.given.get_weights()
        self.records = []
        self.result = tune(self.given, on_epoch=self.records.append, epochs=6)


@pytest.fixture(scope="module")
def run():
    return Run()


@pytest.fixture(scope="module")
def teacher(run):
    return run.result.model


@pytest.mark.slow
@pytest.mark.parametrize("flavour", [keras, tf_keras])
def test_adam_trains_otherwise_than_sgd_at_the_same_rate(flavour):
    results = [tune(toy_model(flavour=flavour), optimizer=name, epochs=2) for name in ("adam", "sgd")]
    assert min(result.best_top1 for result in results) > 0.8
    assert not same_weights(*(result.model for result in results))


@pytest.mark.parametrize("flavour", [keras, tf_keras])
def test_frozen_layers_are_trained_and_frozen_again(flavour):
    model = frozen_backbone(flavour)
    result = tune(model, epochs=2)
    assert result.best_epoch > 0
    tuned = result.model
    backbone, given = tuned.get_layer("backbone"), model.get_layer("backbone")
    kernel, *_ = backbone.get_layer("conv").get_weights()
    assert np.abs(kernel - given.get_layer("conv").get_weights()[0]).max() > 1e-3
    scale, *_ = backbone.get_layer("norm").get_weights()
    assert np.abs(scale - 1.0).max() > 1e-4
    assert [layer.trainable for layer in backbone.layers[1:]] == [False] * 3
    assert [weight.shape for weight in tuned.trainable_weights] == [(4, CLASSES), (CLASSES,)]
    assert [weight.shape for weight in model.trainable_weights] == [(4, CLASSES), (CLASSES,)]


def small_head(flavour, dtype):
    """A classifier whose loss hardly depends on its convolution: in half precision its gradient becomes 0."""
    layers = flavour.layers
    images = flavour.Input((8, 8, 3))
    hidden = layers.GlobalAveragePooling2D(dtype=dtype)(layers.Conv2D(4, 3, name="conv", dtype=dtype)(images))
    outputs = layers.Dense(CLASSES, name="classes", dtype=dtype)(hidden)
    model = flavour.Model(images, layers.Activation("softmax", dtype="float32")(outputs))
    rng = np.random.default_rng(0)
    for name, scale in (("conv", 0.0), ("classes", 1e-5)):
        layer = model.get_layer(name)
        layer.set_weights([rng.normal(0, scale, weight.shape) for weight in layer.get_weights()])
    return model


@pytest.mark.parametrize("flavour", [keras, tf_keras])
def test_half_precision_learns_what_float32_learns(flavour):
    learned = []
    for dtype in ("float32", "mixed_float16"):
        model = small_head(flavour, dtype)
        tuned = tune(model, epochs=1, learning_rate=1e-3, weight_decay=0.0).model
        kernels = [network.get_layer("conv").get_weights()[0].ravel() for network in (model, tuned)]
        learned.append(kernels[1] - kernels[0])
    assert tuned.get_layer("conv").compute_dtype == "float16"
    assert np.corrcoef(*learned)[0, 1] > 0.99
    assert np.linalg.norm(learned[1]) == pytest.approx(np.linalg.norm(learned[0]), rel=0.1)


def test_it_learns_from_what_keras_trains_with(run):
    train, validation = toy_data(160, seed=1), toy_data(64, seed=2)
    images, labels = validation.images, np.eye(CLASSES)[validation.labels]
    result = finetune(
        run.given,
        tf.data.Dataset.from_tensor_slices((train.images, train.labels)).batch(32),
        (images, labels),
        settings=settings(epochs=1),
        input_range="-1..1",
    )
    assert same_weights(result.model, tune(run.given, epochs=1).model)


def test_it_learns(run):
    assert run.result.history[0].top1 < 0.6
    assert run.result.best_top1 > 0.95
    assert run.records[6].loss < run.records[1].loss


def test_the_original_stays_as_it_was(run):
    assert all(np.array_equal(a, b) for a, b in zip(run.weights_before, run.given.get_weights(), strict=True))
    assert not run.given.compiled


def test_the_result_is_a_new_model_with_the_configuration_of_the_old_one(run):
    assert run.result.model is not run.given
    assert run.result.model.get_config() == run.given.get_config()


def test_the_records_arrive_epoch_by_epoch(run):
    assert tuple(run.records) == run.result.history
    assert [record.epoch for record in run.records] == list(range(7))


def test_the_weights_of_the_best_epoch_are_kept(run):
    result = run.result
    highest = max(record.top1 for record in result.history)
    assert result.best_top1 >= highest - math.sqrt(highest * (1 - highest) / 64)
    assert result.history[result.best_epoch].top1 == result.best_top1
    assert tune(result.model, epochs=0).history[0].top1 == result.best_top1


def test_a_network_that_training_only_harms_comes_back_as_it_was(teacher):
    wrong = toy_data(64, seed=3)
    wrong = ImageData(wrong.images, (wrong.labels + 1) % CLASSES, CLASSES, wrong.class_names)
    result = finetune(teacher, wrong, toy_data(64, 2), settings=settings(epochs=2), input_range="-1..1")
    assert result.history[0].top1 > max(record.top1 for record in result.history[1:]) + 0.05
    assert result.best_epoch == 0
    assert same_weights(result.model, teacher)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.50, 0.80, 0.87, 0.86], 3),  # one standard error of 0.87 is 0.015
        ([0.50, 0.80, 0.87, 0.85], 2),
        ([0.50, 0.90, 0.89, 0.88], 2),  # not a standard error below the one before, and so on down
        ([0.90, 0.80, 0.87, 0.82], 2),  # the network as given
        ([0.00, 0.00, 0.00, 0.00], 3),
    ],
)
def test_the_best_epoch_is_the_last_within_a_standard_error_of_the_highest(
    teacher, monkeypatch, scores, best
):
    remaining = iter(scores)
    monkeypatch.setattr("amc_tf.finetune._evaluate", lambda *_: Accuracy(next(remaining), 1.0, 0.5))
    result = finetune(
        teacher, toy_data(64, 1), toy_data(500, 2), settings=settings(epochs=3), input_range="-1..1"
    )
    assert result.best_epoch == best
    assert result.best_top1 == scores[best]


def test_no_epochs_return_a_copy():
    model = toy_model()
    result = tune(model, epochs=0)
    assert same_weights(result.model, model)
    assert [record.epoch for record in result.history] == [0]
    assert result.history[0].loss is None


def test_the_same_seed_gives_the_same_weights(teacher):
    first, second = (
        tune(toy_model(dropout=0.2), teacher=teacher, epochs=1, augment="crop_flip", seed=5).model
        for _ in "ab"
    )
    assert same_weights(first, second)


@pytest.mark.parametrize(("student_end", "teacher_end"), [("softmax", None), (None, "softmax")])
def test_pure_distillation_brings_the_student_to_the_teacher(teacher, student_end, teacher_end):
    guide = toy_model(teacher_end)
    guide.set_weights(teacher.get_weights())
    result = tune(toy_model(student_end), teacher=guide, distillation_weight=1.0, epochs=5)
    assert result.best_top1 > 0.9
    assert result.history[-1].loss < 0.5 * result.history[1].loss
    assert same_weights(guide, teacher)


def test_softmax_and_logits_are_trained_alike(run):
    model = toy_model(None)
    model.set_weights(run.weights_before)
    losses = [record.loss for record in tune(model, epochs=6).history[1:]]
    np.testing.assert_allclose(losses, [record.loss for record in run.records[1:]], rtol=1e-3)


def test_label_smoothing_bounds_the_confidence(teacher):
    smooth = tune(toy_model(), epochs=6, label_smoothing=0.6).model
    images = toy_data(64, 2).images.astype(np.float32) / 127.5 - 1.0
    assert smooth.predict_on_batch(images).max() < 0.85 < teacher.predict_on_batch(images).max()


def test_fewer_images_than_a_batch_are_one_batch():
    data = toy_data(5, seed=1)
    result = finetune(toy_model(), data, data, settings=settings(epochs=1), input_range="-1..1")
    assert np.isfinite(result.history[1].loss)


def test_a_tf_keras_model_is_fine_tuned_as_a_tf_keras_model(teacher):
    result = tune(toy_model(flavour=tf_keras), teacher=teacher, epochs=4)
    assert isinstance(result.model, tf_keras.Model)
    assert result.best_top1 > 0.9


def test_divergence_names_the_learning_rate_and_a_smaller_one():
    with pytest.raises(
        SettingsError, match=r"NaN or infinite in epoch \d+ at learning_rate 1e\+30; try 2.5e\+29"
    ):
        tune(toy_model(None), learning_rate=1e30, warmup_epochs=0.0)


@pytest.mark.parametrize(("flavour", "times"), [(keras, 1), (tf_keras, 0)])
def test_a_keras_3_model_is_trained_with_fused_batch_norm(monkeypatch, flavour, times):
    made = []

    def with_fused_norm(model):
        made.append(fused_norm.with_fused_norm(model))
        return made[-1]

    monkeypatch.setattr("amc_tf.finetune.with_fused_norm", with_fused_norm)
    tune(toy_model(flavour=flavour), epochs=1)
    assert len(made) == times
    assert all(model.optimizer.iterations > 0 for model in made)


@pytest.mark.parametrize("flavour", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_the_training_step_is_traced_once(flavour):
    traces = []

    class Watched(flavour.layers.ReLU):
        def call(self, inputs, training=False):
            traces.extend([training] if training else [])
            return super().call(inputs)

    images = flavour.Input((8, 8, 3))
    features = flavour.layers.GlobalAveragePooling2D()(Watched()(flavour.layers.Conv2D(4, 3)(images)))
    tune(flavour.Model(images, flavour.layers.Dense(CLASSES)(features)))
    assert traces == [True]


def test_labels_that_do_not_fit_the_outputs_are_named():
    data = toy_data(16, seed=1)
    wrong = ImageData(data.images, data.labels + 1, CLASSES + 1, None)
    for train, validation in ((wrong, data), (data, wrong)):
        with pytest.raises(DataError, match=r"labels go up to 3, but the model has 3 outputs"):
            finetune(toy_model(), train, validation, settings=settings(), input_range="-1..1")


def test_images_of_another_size_are_refused():
    data, large = toy_data(16, seed=1), ImageData(np.zeros((2, 16, 16, 3), np.uint8), np.arange(2), CLASSES)
    for train, validation in ((large, data), (data, large)):
        with pytest.raises(DataError, match="takes images of 8x8x3, but the data has 16x16x3"):
            finetune(toy_model(), train, validation, settings=settings(), input_range="-1..1")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)]), "is not built"),
        (lambda: type("Own", (keras.Model,), {})(), "A Own has no layer graph"),
        (
            lambda: keras.Sequential([keras.Input((12,)), keras.layers.Dense(3)]),
            r"input has the shape \(None, 12\)",
        ),
    ],
    ids=["unbuilt", "subclassed", "no images"],
)
def test_a_model_that_cannot_be_trained_on_images_is_refused(make, words):
    with pytest.raises(ModelError, match=words):
        tune(make())


def test_a_teacher_with_other_classes_is_refused():
    other = keras.Sequential([keras.layers.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(7)])
    with pytest.raises(ModelError, match="3 outputs and the teacher has 7"):
        tune(toy_model(), teacher=other)


def test_batch_norm_in_a_wrapper_adapts_as_fast_as_any_other():
    plain, wrapped = keras.layers.BatchNormalization(), keras.layers.BatchNormalization()
    _quicken_batch_norm(SimpleNamespace(layers=[plain, SimpleNamespace(layer=wrapped)]), 10)
    assert (plain.momentum, wrapped.momentum) == (0.8, 0.8)


@pytest.mark.parametrize("flavour", [keras, tf_keras])
@pytest.mark.parametrize("augment", ["none", "flip"])
def test_hidden_outputs_come_closer_to_the_teachers(teacher, flavour, augment):
    guide, student = toy_model(flavour=flavour), toy_model(flavour=flavour)
    guide.set_weights(teacher.get_weights())
    images = toy_data(64, 2).images.astype(np.float32) / 127.5 - 1.0

    def hidden(model):
        return flavour.Model(model.inputs, model.get_layer("relu").output).predict_on_batch(images)

    def distance(**changes):
        tuned = tune(student, teacher=guide, epochs=4, augment=augment, distillation_weight=1.0, **changes)
        return np.mean((hidden(tuned.model) - hidden(guide)) ** 2)

    assert distance(feature_weight=3.0) < 0.3 * distance()


def test_a_feature_weight_counts_without_distillation(teacher):
    alone = tune(toy_model(), teacher=teacher, epochs=1, distillation_weight=0.0)
    features = tune(toy_model(), teacher=teacher, epochs=1, distillation_weight=0.0, feature_weight=1.0)
    assert not same_weights(alone.model, features.model)


def test_a_feature_weight_without_a_teacher_is_not_heeded():
    assert same_weights(
        tune(toy_model(), epochs=1, feature_weight=3.0).model, tune(toy_model(), epochs=1).model
    )


def test_a_model_that_lost_channels_needs_its_plan(teacher):
    plan = PruningPlan({"conv": (0, 2)}, {"conv": 4})
    slim = rebuild(teacher, plan)
    with pytest.raises(ModelError, match="feature_weight needs the plan"):
        tune(slim, teacher=teacher, feature_weight=1.0)
    assert tune(slim, teacher=teacher, feature_weight=1.0, plan=plan, epochs=1).history[1].loss > 0.0


@pytest.mark.parametrize("flavour", [keras, tf_keras])
def test_frozen_batch_norm_keeps_its_statistics_and_learns_scale_and_offset(flavour):
    model = toy_model(flavour=flavour)
    tuned = tune(model, epochs=1, freeze_batch_norm=True).model
    before, after = (network.get_layer("norm").get_weights() for network in (model, tuned))
    changed = [not np.array_equal(old, new) for old, new in zip(before, after, strict=True)]
    assert changed == [True, True, False, False]  # gamma, beta, moving mean, moving variance
    assert not np.array_equal(
        model.get_layer("conv").get_weights()[0], tuned.get_layer("conv").get_weights()[0]
    )


def test_dropout_is_off_where_batch_norm_is_frozen():
    noisy, quiet = toy_model(dropout=0.5), toy_model()
    quiet.get_layer("classes").set_weights(noisy.get_layer("classes").get_weights())
    losses = {
        tune(model, epochs=1, freeze_batch_norm=True, seed=4).history[1].loss for model in (noisy, quiet)
    }
    assert len(losses) == 1


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_of_batches_take_a_network_away_from_a_teacher_that_it_equals(teacher, frozen):
    still = {"learning_rate": 1e-9, "weight_decay": 0.0, "distillation_weight": 0.0, "epochs": 1}
    labels, features = (
        tune(teacher, teacher=teacher, feature_weight=weight, freeze_batch_norm=frozen, **still).history[1]
        for weight in (0.0, 1.0)
    )
    assert (features.loss - labels.loss < 1e-6) is frozen


@pytest.mark.parametrize(("flavour", "augment"), [(keras, "none"), (tf_keras, "flip")])
def test_images_without_labels_are_imitated_like_the_others(teacher, flavour, augment):
    both = toy_data(96, seed=1)
    ways = settings(epochs=2, distillation_weight=1.0, feature_weight=1.0, augment=augment)

    def tuned(train, **options):
        student = toy_model(flavour=flavour)
        options |= {"settings": ways, "input_range": "-1..1", "teacher": teacher}
        return finetune(student, train, toy_data(64, 2), **options).model

    assert same_weights(
        tuned(both.take(np.arange(40)), unlabelled=both.images[40:]),
        tuned(both),  # whose labels do not count
    )


def test_where_there_is_no_label_none_is_learned(teacher):
    still = settings(
        epochs=1,
        learning_rate=1e-9,
        distillation_weight=0.0,
        feature_weight=1.0,
        freeze_batch_norm=True,
        label_smoothing=0.3,
    )

    def loss(unlabelled):
        return (
            finetune(
                teacher,
                toy_data(48, seed=1),
                toy_data(64, 2),
                settings=still,
                input_range="-1..1",
                teacher=teacher,
                unlabelled=unlabelled,
            )
            .history[1]
            .loss
        )

    assert loss(toy_data(96, seed=3).images) == pytest.approx(loss(None) / 3, rel=1e-4)


@pytest.mark.parametrize(
    ("images", "changes", "error", "words"),
    [
        (toy_data(4, 3).images, {"distillation_weight": 0.0}, SettingsError, "Nothing is imitated"),
        (np.zeros((4, 9, 8, 3), np.uint8), {}, DataError, "8x8x3, but the unlabelled ones are 9x8x3"),
        (np.zeros((4, 8, 8, 3), np.float32), {}, DataError, "are uint8, but the unlabelled ones are float32"),
        (np.zeros((8, 8, 3), np.uint8), {}, DataError, "must have 4 axes"),
        ((np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4)), {}, DataError, "must be one array .*, not a tuple"),
        (toy_data(4, 3), {}, DataError, "must be one array .*, not a ImageData"),
        (toy_data(16, 2).images[5:7], {}, DataError, "2 are among the training and validation images"),
        (np.zeros((0, 8, 8, 3), np.uint8), {}, DataError, "There are no images"),
    ],
)
def test_images_without_labels_of_which_nothing_is_learned_are_refused(
    teacher, images, changes, error, words
):
    with pytest.raises(error, match=words):
        finetune(
            toy_model(),
            toy_data(16, 1),
            toy_data(16, 2),
            settings=settings(**changes),
            input_range="-1..1",
            teacher=teacher,
            unlabelled=images,
        )


def test_images_without_labels_need_a_teacher():
    data = toy_data(16, 1)
    with pytest.raises(SettingsError, match="imitate a teacher on: give one"):
        finetune(toy_model(), data, data, settings=settings(), input_range="-1..1", unlabelled=data.images)
