"""The options of fine-tuning that scripts share."""

import argparse
import dataclasses

import pytest

from amc_tf.errors import SettingsError
from amc_tf.settings import FinetuneSettings
from benchmarks.finetune_options import add_finetune_options, finetune_settings

USUAL = FinetuneSettings(epochs=3, batch_size=32, optimizer="sgd", weight_decay=0.001)


def settings_of(*words: str) -> FinetuneSettings:
    parser = argparse.ArgumentParser()
    add_finetune_options(parser, USUAL)
    return finetune_settings(parser.parse_args(words), augment="flip", seed=5)


def test_without_options_the_script_decides() -> None:
    assert settings_of() == dataclasses.replace(USUAL, augment="flip", seed=5)
    assert settings_of().highest_learning_rate == 0.02


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("epochs", "7", 7),
        ("batch_size", "16", 16),
        ("optimizer", "adam", "adam"),
        ("learning_rate", "0.25", 0.25),
        ("weight_decay", "0.5", 0.5),
        ("warmup_epochs", "1.5", 1.5),
        ("distillation_weight", "0.75", 0.75),
        ("distillation_temperature", "8", 8.0),
        ("feature_weight", "30", 30.0),
    ],
)
def test_an_option_replaces_one_setting(option: str, text: str, value: object) -> None:
    changed = settings_of(f"--{option.replace('_', '-')}", text)
    assert changed == dataclasses.replace(USUAL, augment="flip", seed=5, **{option: value})


def test_batch_normalization_is_frozen_on_request() -> None:
    frozen = dataclasses.replace(USUAL, augment="flip", seed=5, freeze_batch_norm=True)
    assert settings_of("--freeze-batch-norm") == frozen


def test_a_value_outside_its_range_is_refused() -> None:
    with pytest.raises(SettingsError, match="distillation_weight"):
        settings_of("--distillation-weight", "1.5")
