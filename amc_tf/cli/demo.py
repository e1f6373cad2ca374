"""The verb demo: compress the shipped network to under half its latency, in a few minutes."""

from __future__ import annotations

import argparse

from amc_tf.cli import compress, options

# Measured on 2 cores that had other work too: search 54 s, fine-tuning 52 s, the whole 2.5 minutes.
_SETTINGS = {"episodes": 60, "finetune_epochs": 6, "num_calibration_images": 300, "num_search_images": 300}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of compress, with model, data, budget and lengths given."""
    # A little less than half: int8 gains less from the same plan, and is to gain as clearly.
    options.add_budget(parser, budget="latency=0.45")
    compress.add_settings(parser, out="runs/demo")
    parser.set_defaults(model="demo", data="digits", input_range="-1..1", ray=None, **_SETTINGS)


def run(args: argparse.Namespace) -> int:
    """Runs compress."""
    return compress.run(args)
