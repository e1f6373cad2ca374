"""The command line options of fine-tuning, the same in all scripts that fine-tune."""

from __future__ import annotations

import argparse
from typing import Any

from amc_tf.settings import LEARNING_RATES, FinetuneSettings

_OPTIONS: dict[str, dict[str, Any]] = {
    "epochs": {"type": int},
    "batch_size": {"type": int},
    "optimizer": {"choices": tuple(LEARNING_RATES)},
    "learning_rate": {"type": float, "help": "peak of the cosine schedule (default: the optimizer's)"},
    "weight_decay": {"type": float, "help": "Keras' own: outside the momentum"},
    "warmup_epochs": {"type": float},
    "distillation_weight": {"type": float},
    "distillation_temperature": {"type": float},
    "feature_weight": {"type": float, "help": "of hidden outputs, relative to the original's"},
    "freeze_batch_norm": {"action": "store_true", "help": "train with the moving statistics"},
}


def add_finetune_options(parser: argparse.ArgumentParser, usual: FinetuneSettings) -> None:
    """Adds the options to a script's own.

    Args:
        parser: of the script.
        usual: what holds where no option is given.
    """
    for name, option in _OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=getattr(usual, name), **option)


def finetune_settings(given: argparse.Namespace, *, augment: str, seed: int) -> FinetuneSettings:
    """Returns the settings of what was given on the command line.

    Args:
        given: the parsed options.
        augment: name of the augmentation, see `FinetuneSettings`.
        seed: of shuffling and augmentation.

    Raises:
        SettingsError: if a value is outside its range.
    """
    return FinetuneSettings(augment=augment, seed=seed, **{name: getattr(given, name) for name in _OPTIONS})
