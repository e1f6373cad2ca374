"""The verb finetune: train a model, with distillation from a teacher if one is given."""

from __future__ import annotations

import argparse
from typing import Any

from amc_tf.cli import console, options
from amc_tf.cli.text import percent
from amc_tf.errors import SettingsError
from amc_tf.settings import FinetuneSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds model, data, teacher, output and the settings of fine-tuning."""
    options.add_model(parser)
    options.add_data(parser)
    options.add_output_file(parser, "the .keras file to write")
    parser.add_argument("--teacher", metavar="MODEL", help="the original model, to be imitated")
    parser.add_argument(
        "--plan",
        metavar="FILE",
        help="the plan.json by which the model was made from the teacher; --feature-weight needs it",
    )
    options.add_finetune(parser, prefix="")
    options.add_seed(parser)
    parser.add_argument(
        "--strategy",
        choices=("mirrored", "multiworker"),
        help="train on all GPUs of this machine, or on the machines of TF_CONFIG, which share out each batch",
    )


def run(args: argparse.Namespace) -> int:
    """Fine-tunes, saves the best epoch, and prints the accuracy before and after."""
    with console.stdout_for_results():
        settings = options.finetune_settings(args)
        _check_features(args, settings)
        strategy, is_chief = _join(args)
        if is_chief:
            path = console.check_output(args.out, overwrite=args.overwrite, suffixes=(".keras",))
        from amc_tf.data import split_data
        from amc_tf.finetune import finetune
        from amc_tf.model_file import load_model
        from amc_tf.plan import PruningPlan
        from amc_tf.run_folder import write_keras_model

        model = load_model(args.model)
        teacher = load_model(args.teacher) if args.teacher else None
        plan = PruningPlan.load(args.plan) if args.plan else None
        train, validation = options.load_images(model, args)
        split = split_data(
            train,
            validation,
            num_calibration=1,
            num_search=options.SEARCH.num_search_images,
            seed=args.seed,
            unlabelled=options.load_unlabelled(model, args),
        )
        progress = console.make_progress(quiet=args.quiet)
        progress.stage("finetune")
        result = finetune(
            model,
            split.train,
            split.search,
            settings=settings,
            input_range=args.input_range,
            teacher=teacher,
            plan=plan,
            unlabelled=split.unlabelled,
            on_epoch=lambda record: progress.epoch(record.epoch, settings.epochs, record.top1),
            strategy=strategy,
        )
        if not is_chief:
            console.say("This worker has done its part; worker 0 writes the model.", quiet=args.quiet)
            return 0
        progress.stage("report")
        write_keras_model(result.model, path)
        before, after = (options.top1(network, split.test, args) for network in (model, result.model))
    if args.json:
        accuracies = {"before": {"top1": before}, "after": {"top1": after}}
        console.print_json({"model": str(path), **accuracies, "best_epoch": result.best_epoch})
        return 0
    print(f"top-1 {percent(before)} -> {percent(after)} on {len(split.test)} validation images")
    print(path)
    return 0


def _check_features(args: argparse.Namespace, settings: FinetuneSettings) -> None:
    """Refuses what nothing would heed."""
    if settings.feature_weight and not args.teacher:
        raise SettingsError("--feature-weight imitates a --teacher: give one.")
    if args.unlabelled is not None and not args.teacher:
        raise SettingsError("On --unlabelled images a --teacher is imitated: give one.")
    if args.plan and not settings.feature_weight:
        raise SettingsError("--plan is read for --feature-weight alone: give that too, or neither.")


def _join(args: argparse.Namespace) -> tuple[Any, bool]:
    """Returns the strategy, before TensorFlow does any work, and whether this process writes the model."""
    if args.strategy is None:
        return None, True
    from amc_tf.distribute import is_chief, make_strategy

    strategy = make_strategy(args.strategy)
    return strategy, is_chief(strategy)
