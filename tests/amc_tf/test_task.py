"""What all stages of a compression share."""

import dataclasses

import keras
import numpy as np
import pytest

from amc_tf import task as task_module
from amc_tf.budget import Budget
from amc_tf.finetune import FinetuneResult
from amc_tf.plan import PruningPlan
from amc_tf.progress import Progress
from amc_tf.quantize import QuantizedNetwork
from amc_tf.settings import FinetuneSettings, SearchSettings, quantization_settings
from amc_tf.task import CompressionTask
from tests.trained import RANGE, make_classifier, make_split


@pytest.fixture(scope="module")
def model():
    return make_classifier(keras)


MORE = np.zeros((5, 8, 8, 3), np.uint8)


def make_task(model, *, unlabelled=None, **settings):
    return CompressionTask(
        model=model,
        split=dataclasses.replace(make_split(), unlabelled=unlabelled),
        settings=SearchSettings(reward="macs", **settings),
        finetuning=FinetuneSettings(epochs=1),
        quantization=None,
        input_range=RANGE,
        meter=None,
        table=None,
        progress=Progress(),
    )


@pytest.fixture
def trained(model, monkeypatch):
    """What every training ends in."""
    result = FinetuneResult(model, (), best_epoch=1, best_top1=0.125)
    monkeypatch.setattr(task_module, "finetune", lambda *given, **options: result)
    return result


def test_a_fine_tuned_network_has_the_accuracy_of_its_best_epoch(model, trained):
    assert make_task(model).finetune(model, PruningPlan({}, {})) == (model, 0.125)


def test_it_is_trained_by_the_original_the_plan_and_images_without_labels(model, monkeypatch):
    plan, seen = PruningPlan({"first": (1,)}, {"first": 2}), {}

    def finetune(*given, **options):
        seen.update(options)
        return FinetuneResult(model, (), best_epoch=1, best_top1=0.5)

    monkeypatch.setattr(task_module, "finetune", finetune)
    make_task(model, unlabelled=MORE).finetune(model, plan)
    assert seen["teacher"] is model and seen["plan"] is plan and seen["unlabelled"] is MORE


def test_training_for_int8_imitates_the_slim_network_on_images_without_labels(model, monkeypatch):
    def quantize_aware(*given, **options):
        assert options["teacher"] is model and options["unlabelled"] is MORE
        return QuantizedNetwork(FinetuneResult(model, (), best_epoch=1, best_top1=0.5), b"int8")

    monkeypatch.setattr(task_module, "quantize_aware", quantize_aware)
    task = make_task(model, unlabelled=MORE)
    assert task.quantize(model, quantization_settings(1)) == b"int8"


def test_a_stage_that_was_trained_on_other_images_without_labels_is_another(model):
    tasks = (make_task(model, unlabelled=images) for images in (None, MORE, MORE + 1))
    assert len({task.identity(b"")["images"] for task in tasks}) == 3


def test_where_int8_counts_it_has_the_accuracy_that_the_next_search_starts_from(model, trained):
    task = make_task(model, int8_accuracy=True)
    tuned, top1 = task.finetune(model, PruningPlan({}, {}))
    assert task.session(tuned, Budget(accuracy=0.9)).baseline_top1 == top1 != 0.125
