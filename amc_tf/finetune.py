"""Fine-tuning: trains a slimmed network, with distillation from the original, and keeps the best weights."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from amc_tf.augment import Augmentation, augmentation
from amc_tf.clone import check_functional, clone_with, copy_weights, is_tf_keras, keras_of, uses_half
from amc_tf.distillation import are_probabilities, distillation_loss, soften, to_log_probabilities
from amc_tf.distribute import Replicas
from amc_tf.errors import ModelError, SettingsError
from amc_tf.evaluate import Accuracy, accuracy, compiled
from amc_tf.fused_norm import with_fused_norm
from amc_tf.hints import Hint, find_hints, kept_positions, position_weights, with_hints
from amc_tf.image_data import ImageData, check_data_fits, check_unlabelled, to_input_range
from amc_tf.keras_data import as_image_data
from amc_tf.plan import PruningPlan
from amc_tf.settings import FinetuneSettings

_LOGGER = logging.getLogger(__name__)
_MOMENTUM = 0.9
_NUM_PROBES = 8
_HEAD_START = 0.05  # by which the network as given has to be better, in top-1

Batch = tuple[np.ndarray, np.ndarray]  # float32 [B, H, W, C] and float32 [B, C]: one-hot labels, or zeros


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did.

    Attributes:
        epoch: 0 for the network as it was given, then 1, 2, ...
        loss: Mean training loss of the epoch; None for epoch 0.
        top1: Top-1 accuracy on the validation images, in [0, 1].
        top5: Top-5 accuracy on the validation images, in [0, 1].
        seconds: Time the epoch took, its evaluation included.
    """

    epoch: int
    loss: float | None
    top1: float
    top5: float
    seconds: float


@dataclass(frozen=True)
class FinetuneResult:
    """A fine-tuned network and how it came about.

    Attributes:
        model: A new model of the same Keras flavour with the weights of the best epoch, not compiled.
        history: One record for each epoch, the first for the network as it was given.
        best_epoch: The epoch whose weights were kept, see `finetune`; 0 if training only harmed.
        best_top1: Its top-1 accuracy on the validation images, in [0, 1].
    """

    model: Any
    history: tuple[EpochRecord, ...]
    best_epoch: int
    best_top1: float


def finetune(  # noqa: PLR0913, each is a choice of the user
    model: keras.Model,
    train: Any,
    validation: Any,
    *,
    settings: FinetuneSettings,
    input_range: str,
    teacher: keras.Model | None = None,
    plan: PruningPlan | None = None,
    unlabelled: ArrayLike | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    strategy: Any | None = None,
) -> FinetuneResult:
    """Trains a copy of a model and returns it with the weights of its best epoch.

    Adam, or SGD with Nesterov momentum, under a cosine schedule with warm-up; with a teacher, the loss is
    that of Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), see `distillation_loss`.
    Both networks may end in logits or in a softmax. Neither `model` nor `teacher` is changed. With a
    `feature_weight` the squared error of hidden outputs is added, relative to the teacher's (`find_hints`).

    The same seed gives the same weights on a CPU; a GPU may add numbers in another order. (A `tf_keras`
    network that holds random layers such as Dropout also needs `tf_keras.utils.set_random_seed`.)

    Layers that are frozen, as the backbone of a transfer-learning model often is, are trained like the
    others: a pruned backbone is another one than that whose weights were to stay. In the result they are
    frozen again.

    With `freeze_batch_norm` no step depends on the statistics of its batch: a network that is already close
    to its teacher stays so, where the noise of these statistics would take it away first.

    More images without labels are mixed among those to train on; there the loss is what imitates the teacher,
    and the part of the labels is zero. They help where the images are too few to imitate it on.

    The best epoch is the last whose top-1 is within one standard error of the highest (the rule of Breiman et
    al., "Classification and Regression Trees", 1984, with the longest trained network for the simplest one):
    what the images cannot tell apart is decided by the schedule, whose last epochs are its best. The network
    as it was given is kept only if it is better by more than five points in addition: a pruned one has been
    chosen for being right on images such as `validation`, and its original has often been trained on them,
    so its accuracy there is flattered beside that of a network which has since been trained on others.

    Args:
        model: A classifier, Keras 3 or `tf_keras`: [B, H, W, C] -> [B, classes].
        train: Images to train on: `ImageData` or what `amc_tf.as_image_data` takes.
        validation: Images that decide which epoch is best, likewise.
        settings: How to train; `epochs=0` returns the copy as it is.
        input_range: One of `amc_tf.data.INPUT_RANGES`; how uint8 images are scaled.
        teacher: The original network; None trains on the labels alone, whatever the settings say.
        plan: The teacher's channels that the model has kept, None if all; read for `feature_weight` only.
        unlabelled: Images without labels to imitate the teacher on, uint8 or float [N, H, W, C] like those of
            `train`; None if there are none.
        on_epoch: Called after each epoch, and before the first, with its record.
        strategy: A `tf.distribute.Strategy` to train under, see `amc_tf.distribute`. Its replicas share out
            each batch, and each normalizes its part by itself. Every worker is given the same model, data and
            settings, and returns the same network.

    Returns:
        The best network found, the given one included.

    Raises:
        DataError: If the data cannot be read, or images or labels do not fit the model.
        ModelError: If the model cannot be copied, is no classifier, or does not fit the teacher; with a
            `feature_weight` also if it is not what the plan makes of the teacher.
        PlanError: If the plan is of another network than the teacher.
        SettingsError: If the loss becomes NaN or infinite; a smaller learning rate is named. If the batches
            cannot be shared out. If nothing is to be imitated on the unlabelled images.
    """
    train, validation = as_image_data(train), as_image_data(validation)
    _check(model, train, validation, teacher)
    if unlabelled is not None:
        check_imitates(settings if teacher is not None else None)
        unlabelled = check_unlabelled(unlabelled, train, validation)
    scope = contextlib.nullcontext() if strategy is None else strategy.scope()
    with scope:
        student = _copy(model) if is_tf_keras(model) else with_fused_norm(_copy(model))
    _unfreeze(student)
    batches = _Batches(
        train,
        unlabelled,
        settings=settings,
        input_range=input_range,
        num_classes=int(model.output_shape[-1]),
    )
    is_taught = settings.distillation_weight > 0.0 or settings.feature_weight > 0.0
    hints: tuple[Hint, ...] = ()
    if teacher is not None and settings.feature_weight > 0.0:
        hints = find_hints(teacher, model, plan or PruningPlan({}, {}))
    distiller = _Distiller(
        student, teacher if is_taught else None, batches, settings, hints=hints, strategy=strategy
    )
    # What belongs to a strategy is evaluated as a copy that belongs to none.
    evaluated = student if strategy is None else _copy(model)

    best_weights = student.get_weights()
    history: list[EpochRecord] = []
    best = 0
    for epoch in range(settings.epochs + 1):
        started = time.perf_counter()
        loss = distiller.train_epoch(epoch) if epoch else None
        if strategy is not None:
            copy_weights(student, evaluated)
        score = _evaluate(evaluated, validation, input_range, settings.batch_size)
        record = EpochRecord(epoch, loss, score.top1, score.top5, time.perf_counter() - started)
        history.append(record)
        if record.top1 >= _least_to_keep(history, len(validation)):
            best, best_weights = epoch, student.get_weights()
        _LOGGER.info("epoch %d: loss %s, top-1 %.4f", epoch, loss, score.top1)
        if on_epoch is not None:
            on_epoch(record)

    student.set_weights(best_weights)
    tuned = clone_with(model, lambda path, config: config)
    copy_weights(student, tuned)
    return FinetuneResult(tuned, tuple(history), best, history[best].top1)


def check_imitates(*trainings: FinetuneSettings | None) -> None:
    """Checks that networks would learn from images without labels.

    Args:
        trainings: How each is trained; None for one that has no teacher to imitate.

    Raises:
        SettingsError: If none is trained, or one that is imitates nothing.
    """
    if None in trainings:
        raise SettingsError("Images without labels are there to imitate a teacher on: give one.")
    trained = [settings for settings in trainings if settings is not None and settings.epochs]
    if not trained:
        raise SettingsError("Nothing is learned from the images without labels: give epochs of fine-tuning.")
    if any(settings.distillation_weight == settings.feature_weight == 0.0 for settings in trained):
        raise SettingsError(
            "Nothing is imitated on the images without labels: give a distillation_weight or a "
            "feature_weight above 0."
        )


def _least_to_keep(history: Sequence[EpochRecord], num_images: int) -> float:
    """Returns the top-1 that an epoch must have to be kept in place of those before it."""
    highest = max(history[0].top1 - _HEAD_START, *(record.top1 for record in history[1:]), 0.0)
    return highest - math.sqrt(highest * (1.0 - highest) / num_images)


class _Batches:
    """Training batches: shuffled, augmented as raw pixels, scaled, one batch ahead of the training step."""

    def __init__(
        self,
        data: ImageData,
        unlabelled: NDArray | None,
        *,
        settings: FinetuneSettings,
        input_range: str,
        num_classes: int,
    ) -> None:
        self._data = data
        self._unlabelled = data.images[:0] if unlabelled is None else unlabelled
        self._num_images = len(data) + len(self._unlabelled)
        self._input_range = input_range
        self._num_classes = num_classes
        self._seed = settings.seed
        self._smoothing = settings.label_smoothing
        self._augment: Augmentation | None = augmentation(settings.augment, data)
        self.size = min(settings.batch_size, self._num_images)
        self.num_steps = self._num_images // self.size  # the rest, less than a batch, differs in each epoch
        self.are_augmented = self._augment is not None

    def probes(self) -> np.ndarray:
        """Returns a few images in the model's range, float32 [B, H, W, C]."""
        return to_input_range(self._data.images[:_NUM_PROBES], self._input_range)

    def in_order(self) -> Iterator[np.ndarray]:
        """Yields all images as they are, in the order of their indices."""
        for start in range(0, self._num_images, self.size):
            indices = np.arange(start, min(start + self.size, self._num_images))
            yield to_input_range(self._pixels(indices), self._input_range)

    def epoch(self, epoch: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yields (indices int64 [B], batch) in an order that the seed and the epoch decide."""
        made = self._make(np.random.default_rng([self._seed, epoch]))
        with ThreadPoolExecutor(max_workers=1) as pool:
            coming = pool.submit(next, made, None)
            while (ready := coming.result()) is not None:
                coming = pool.submit(next, made, None)
                yield ready

    def _make(self, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, Batch]]:
        order = rng.permutation(self._num_images)
        for step in range(self.num_steps):
            indices = order[step * self.size : (step + 1) * self.size]
            pixels = self._pixels(indices)
            if self._augment is not None:
                pixels = self._augment(pixels, rng)
            yield indices, (to_input_range(pixels, self._input_range), self._one_hot(indices))

    def _pixels(self, indices: np.ndarray) -> np.ndarray:
        """Returns images as they are given; those without labels are numbered after the others."""
        has_label = indices < len(self._data)
        pixels = np.empty((len(indices), *self._data.image_size), self._data.images.dtype)
        pixels[has_label] = self._data.images[indices[has_label]]
        pixels[~has_label] = self._unlabelled[indices[~has_label] - len(self._data)]
        return pixels

    def _one_hot(self, indices: np.ndarray) -> np.ndarray:
        """Returns float32 [B, classes], zeros where there is no label."""
        (labelled,) = np.nonzero(indices < len(self._data))
        labels = np.zeros((len(indices), self._num_classes), np.float32)
        labels[labelled] = self._smoothing / self._num_classes
        labels[labelled, self._data.labels[indices[labelled]]] += 1.0 - self._smoothing
        return labels


class _Distiller:
    """Trains a student epoch by epoch; the teacher's outputs travel beside the labels as one target array.

    Its columns are [labels, softened outputs, kept hidden outputs], the latter two where there is a teacher.
    """

    def __init__(
        self,
        student: Any,
        teacher: Any | None,
        batches: _Batches,
        settings: FinetuneSettings,
        *,
        hints: tuple[Hint, ...],
        strategy: Any | None,
    ) -> None:
        self._num_classes = int(student.output_shape[-1])
        self._batches = batches
        self._settings = settings
        self._hints = hints
        self._teacher: Any = None if teacher is None else compiled(with_hints(teacher, hints))
        self._known: np.ndarray | None = None  # the teacher's targets of all images, where these never change
        probes = batches.probes()
        self._student_has_softmax = are_probabilities(_call(student, probes))
        if self._teacher is not None:
            self._teacher_has_softmax = are_probabilities(_call(teacher, probes))
            if hints:
                self._kept = kept_positions(hints)
                self._weights = position_weights(hints, self._taught(probes)[:, self._num_classes :])
            elif not batches.are_augmented and settings.epochs:
                self._known = np.concatenate([self._taught(images) for images in batches.in_order()])
        _seed_random_layers(student, settings.seed)
        _quicken_batch_norm(student, batches.num_steps)
        with contextlib.nullcontext() if strategy is None else strategy.scope():
            optimizer = _optimizer(keras_of(student), settings, batches.num_steps)
            if uses_half(student, kinds=("float16",)):  # whose small gradients would be rounded to zero
                optimizer = keras_of(student).mixed_precision.LossScaleOptimizer(optimizer)
            optimizer.build(student.trainable_variables)  # not in the first step, which would be traced twice
            self._student = with_hints(student, hints)
            if settings.freeze_batch_norm:
                self._student = _as_it_infers(self._student)
            self._student.compile(optimizer=optimizer, loss=self._loss)
        self._replicas = (
            None if strategy is None else Replicas(strategy, self._student, batch_size=batches.size)
        )

    def train_epoch(self, epoch: int) -> float:
        """Trains one epoch and returns its mean loss."""
        self._student.reset_metrics()
        rate = self._settings.highest_learning_rate
        loss = math.nan
        for indices, (images, labels) in self._batches.epoch(epoch):
            loss = self._train_on_batch(indices, images, labels)
            if not math.isfinite(loss):
                raise SettingsError(
                    f"The loss became NaN or infinite in epoch {epoch} at learning_rate {rate:g}; try "
                    f"{rate / 4:g}."
                )
        if self._replicas is not None:
            self._replicas.average_statistics()
        return loss

    def _train_on_batch(self, indices: np.ndarray, images: np.ndarray, labels: np.ndarray) -> float:
        if self._replicas is None:
            targets = self._targets(indices, images, labels)
            # Keras 2 would forget the loss of the batches before.
            options = {"reset_metrics": False} if is_tf_keras(self._student) else {}
            return float(self._student.train_on_batch(images, targets, return_dict=True, **options)["loss"])
        return self._replicas.train_on_batch(
            lambda part: (images[part], self._targets(indices[part], images[part], labels[part]))
        )

    def _targets(self, indices: np.ndarray, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        if self._teacher is None:
            return labels
        taught = self._taught(images) if self._known is None else self._known[indices]
        return np.concatenate([labels, taught], axis=-1)

    def _taught(self, images: np.ndarray) -> np.ndarray:
        outputs, hidden = np.split(self._teacher(images), [self._num_classes], axis=-1)
        temperature = self._settings.distillation_temperature
        soft = soften(outputs, temperature, has_softmax=self._teacher_has_softmax)
        return np.concatenate([soft, hidden[:, self._kept]], axis=-1) if self._hints else soft

    def _loss(self, targets: Any, outputs: Any) -> Any:
        ops = keras.ops
        targets = ops.cast(targets, "float32")  # tf_keras makes them what a half-precision output is
        num_classes = self._num_classes
        log_probabilities = to_log_probabilities(
            outputs[:, :num_classes], has_softmax=self._student_has_softmax
        )
        if self._teacher is None:
            return -ops.sum(targets * log_probabilities, axis=-1)
        loss = distillation_loss(
            targets[:, :num_classes],
            targets[:, num_classes : 2 * num_classes],
            log_probabilities,
            weight=self._settings.distillation_weight,
            temperature=self._settings.distillation_temperature,
        )
        if not self._hints:
            return loss
        differences = outputs[:, num_classes:] - targets[:, 2 * num_classes :]
        errors = ops.sum(ops.multiply(self._weights, ops.square(differences)), axis=-1)  # [B]
        return loss + self._settings.feature_weight * errors


def _optimizer(flavour: ModuleType, settings: FinetuneSettings, steps_per_epoch: int) -> Any:
    num_steps = max(1, settings.epochs * steps_per_epoch)
    warmup_steps = min(round(settings.warmup_epochs * steps_per_epoch), num_steps - 1)
    rate = settings.highest_learning_rate
    if warmup_steps:
        schedule = flavour.optimizers.schedules.CosineDecay(
            rate / (warmup_steps + 1),
            num_steps - warmup_steps,
            warmup_target=rate,
            warmup_steps=warmup_steps,
        )
    else:
        schedule = flavour.optimizers.schedules.CosineDecay(rate, num_steps)
    decay = settings.weight_decay or None
    if settings.optimizer == "adam":
        optimizer = flavour.optimizers.Adam(schedule, weight_decay=decay)
    else:
        optimizer = flavour.optimizers.SGD(schedule, momentum=_MOMENTUM, nesterov=True, weight_decay=decay)
    if settings.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "alpha"])
    return optimizer


def _check(model: Any, train: ImageData, validation: ImageData, teacher: Any | None) -> None:
    check_functional(model)
    images = model.input_shape
    if not isinstance(images, tuple) or len(images) != 4:
        raise ModelError(
            f"The model's input has the shape {images}; fine-tuning needs one input [batch, height, width, "
            "channels]."
        )
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2 or not isinstance(shape[-1], int):
        raise ModelError(
            f"The model's output has the shape {shape}; fine-tuning needs one output [batch, classes]."
        )
    if teacher is not None and teacher.output_shape[-1] != shape[-1]:
        raise ModelError(
            f"The model has {shape[-1]} outputs and the teacher has {teacher.output_shape[-1]}; "
            "give as teacher the network that the model was made from."
        )
    for data in (train, validation):
        check_data_fits(images[1:], shape[-1], data)


def _copy(model: Any) -> Any:
    copy = clone_with(model, lambda path, config: config)
    copy_weights(model, copy)
    return copy


def _call(model: Any, images: np.ndarray) -> np.ndarray:
    # Eagerly: compiling for one small batch would take longer than running it.
    return np.asarray(keras.ops.convert_to_numpy(_one(model(images, training=False))), np.float32)


def _one(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, list) else outputs


def _as_it_infers(model: Any) -> Any:
    """Returns a view of a model that calls its layers as in inference, even while it is trained."""

    # `model(inputs, training=False)` in a functional model would not do: Keras 3 overrides it in training.
    class AsItInfers(keras_of(model).Model):  # type: ignore[misc]  # a base of either flavour
        """Holds the model as a layer."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def call(self, inputs: Any, training: bool | None = None) -> Any:
            """Computes the model's outputs; heeds no `training`."""
            return self.inner(inputs, training=False)

    return AsItInfers()


def _evaluate(model: Any, data: ImageData, input_range: str, batch_size: int) -> Accuracy:
    return accuracy(model.predict_on_batch, data, input_range=input_range, batch_size=batch_size)


def _seed_random_layers(model: Any, seed: int) -> None:
    if keras_of(model) is not keras:
        return
    states = [variable for variable in model.variables if "seed_generator_state" in variable.path]
    for index, state in enumerate(states):
        state.assign(np.array([seed, index], "uint32"))


def _unfreeze(layer: Any) -> None:
    # From the inside out: Keras 3 does not pass on what a model is already set to.
    for inner in (*getattr(layer, "layers", ()), *filter(None, [getattr(layer, "layer", None)])):
        _unfreeze(inner)
    layer.trainable = True


def _quicken_batch_norm(model: Any, steps_per_epoch: int) -> None:
    # The usual momentum of 0.99 averages over hundreds of steps: on small data the statistics would still be
    # those of the network before training when it ends (digits, half width, 5 epochs: 26 % top-1 with
    # 0.99, 98 % so). Two windows fit in an epoch; on large data each layer keeps its own momentum.
    for outer in model.layers:
        layer = getattr(outer, "layer", outer)  # what a wrapper holds
        if isinstance(layer, keras_of(model).layers.BatchNormalization):
            layer.momentum = min(layer.momentum, max(0.0, 1.0 - 2.0 / steps_per_epoch))
        elif getattr(layer, "layers", None):
            _quicken_batch_norm(layer, steps_per_epoch)
