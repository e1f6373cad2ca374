"""CIFAR-10: half the latency of a trained MobileNet, fine-tuned, beside uniform with the same fine-tuning.

The network comes from `benchmarks.train_cifar`:

    python -m benchmarks.cifar_mobilenet --data-dir DATA --model runs/cifar_mobilenet.keras --out runs/cifar
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras

from amc_tf.budget import Budget
from amc_tf.compress import compress
from amc_tf.device.host_meter import HostMeter
from amc_tf.settings import FinetuneSettings, SearchSettings
from benchmarks.log_progress import LogProgress
from benchmarks.shared_data import data_dir, load_cifar10

_LOGGER = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the compression and logs its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--budget", default="latency=0.5")
    parser.add_argument("--episodes", type=int, default=120)
    parser.add_argument("--warmup-episodes", type=int, default=30)
    parser.add_argument("--finetune-epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train, test = load_cifar10(data_dir(given.data_dir))
    result = compress(
        keras.models.load_model(given.model),
        train,
        test,
        budget=Budget.parse(given.budget),
        meter=HostMeter(),
        settings=SearchSettings(
            episodes=given.episodes,
            warmup_episodes=given.warmup_episodes,
            seed=given.seed,
            num_search_images=1000,
        ),
        finetuning=FinetuneSettings(epochs=given.finetune_epochs, seed=given.seed),
        finetune_uniform=True,
        out=given.out,
        resume=True,
        labels={"model": given.model.name, "data": "cifar10", "command": sys.argv},
        progress=LogProgress(),
    )
    for name, row in result.summary.items():
        if isinstance(row, Mapping) and "top1" in row:
            _LOGGER.info("%s: %s", name, json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
