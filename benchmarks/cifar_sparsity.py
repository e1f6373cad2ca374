"""CIFAR-10 networks with most of their weights set to zero: the agent beside uniform sparsity.

    python -m benchmarks.cifar_sparsity resnet56 --removed 0.8 --seeds 0 1 2 --epochs 2 --out runs/sparse80

Every seed searches; the networks of the first one are fine-tuned, the agent's and the uniform one alike, with
the original as teacher. The control "threshold" keeps what lies above one magnitude in all layers. With
several stages the uniform network is fine-tuned in one go, for as many epochs as these have together.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from amc_tf.budget import Budget
from amc_tf.settings import FinetuneSettings, SearchSettings
from amc_tf.sparsify import sparsify
from benchmarks.finetune_options import add_finetune_options, finetune_settings
from benchmarks.log_progress import LogProgress
from benchmarks.shared_data import data_dir, load_cifar10, load_cifar_network

_LOGGER = logging.getLogger(__name__)
NETWORKS = ("baseline", "uniform", "threshold", "pruned", "uniform_finetuned", "finetuned")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the searches and writes one JSON file with all results."""
    given = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = data_dir(given.data_dir)
    model = load_cifar_network(given.network, folder)
    train, test = load_cifar10(folder)
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in given.seeds:
        is_tuned = seed == given.seeds[0]
        finetuning = finetune_settings(given, augment="crop_flip", seed=seed)
        result = sparsify(
            model,
            train,
            test,
            budget=Budget(params=round(1.0 - given.removed, 6)),
            settings=SearchSettings(
                episodes=given.episodes,
                warmup_episodes=given.episodes // 4,
                seed=seed,
                min_keep_ratio=given.min_keep_ratio,
                num_calibration_images=given.calibration_images,
                num_search_images=given.search_images,
                num_finalists=given.finalists,
                accuracy_metric=given.accuracy_metric,
            ),
            finetuning=finetuning if is_tuned else dataclasses.replace(finetuning, epochs=0),
            finetune_uniform=is_tuned,
            stages=given.stages,
            min_keep_ratio_dense=given.min_keep_ratio,
            input_range=given.input_range,
            out=given.out / f"seed{seed}",
            resume=True,
            labels={"model": given.network, "data": "cifar10", "command": sys.argv},
            progress=LogProgress(),
        )
        summary = result.summary
        rows.append(
            {
                "seed": seed,
                "top1": {name: summary[name]["top1"] for name in NETWORKS if name in summary},
                "params": {name: summary[name]["params"] for name in NETWORKS if name in summary},
                "found_by": summary["plan_found_by"],
                "seconds": summary["seconds"],
            }
        )
        report = {"command": sys.argv, "rows": rows}
        (given.out / "results.json").write_text(json.dumps(report, indent=1) + "\n")
        _LOGGER.info("%s", json.dumps(rows[-1]))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("network", help="resnet20, resnet56 or a .keras file")
    parser.add_argument("--data-dir")
    parser.add_argument("--input-range", default="imagenet")
    parser.add_argument("--removed", type=float, default=0.8, help="part of the parameters that becomes zero")
    parser.add_argument("--min-keep-ratio", type=float, default=0.05, help="of every layer's weights")
    parser.add_argument("--episodes", type=int, default=120)
    parser.add_argument("--calibration-images", type=int, default=1000)
    parser.add_argument("--search-images", type=int, default=1000)
    parser.add_argument("--finalists", type=int, default=SearchSettings.num_finalists)
    add_finetune_options(parser, FinetuneSettings(epochs=2, batch_size=128, optimizer="sgd"))
    parser.add_argument("--stages", type=int, default=1, help="searches, each followed by the epochs")
    parser.add_argument("--accuracy-metric", default=SearchSettings().accuracy_metric)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
