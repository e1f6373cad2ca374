"""The verb prune: remove the channels that a plan names, and save the slim model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from amc_tf.cli import console, options
from amc_tf.cli.text import percent, quantity

if TYPE_CHECKING:
    from amc_tf.plan import PruningPlan
    from amc_tf.weights import Weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds model, plan, output, and the data that recovers accuracy."""
    options.add_model(parser)
    parser.add_argument("--plan", metavar="FILE", required=True, help="plan.json of a search")
    options.add_output_file(parser, "the .keras file to write")
    options.add_data(parser, required=False)
    options.add_recovery(parser)
    options.add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Prunes and prints cost, and with data accuracy, before and after."""
    with console.stdout_for_results():
        path = console.check_output(args.out, overwrite=args.overwrite, suffixes=(".keras",))
        from amc_tf.graph import count_cost
        from amc_tf.model_file import load_model
        from amc_tf.plan import PruningPlan
        from amc_tf.rebuild import rebuild
        from amc_tf.run_folder import write_keras_model

        plan = PruningPlan.load(args.plan)
        model = load_model(args.model)
        weights, test = _recover(model, plan, args) if args.data else (None, None)
        slim = rebuild(model, plan, weights)
        networks = {"before": model, "after": slim}
        results: dict[str, dict[str, Any]] = {}
        for name, network in networks.items():
            cost = count_cost(network)
            results[name] = {"macs": cost.macs, "params": cost.params}
            if test is not None:
                results[name]["top1"] = options.top1(network, test, args)
        write_keras_model(slim, path)
    if args.json:
        console.print_json({"model": str(path), **results})
        return 0
    for name, result in results.items():
        accuracy = f", top-1 {percent(result['top1'])}" if "top1" in result else ""
        print(f"{name}: {quantity(result['macs'])} MACs, {quantity(result['params'])} parameters{accuracy}")
    print(path)
    return 0


def _recover(model: Any, plan: PruningPlan, args: argparse.Namespace) -> tuple[Weights, Any]:
    """Returns the weights of the slim model, re-fitted to data, and the validation images."""
    from amc_tf.batch_norm import BatchNormEstimator
    from amc_tf.calibration import calibrate
    from amc_tf.data import split_data, to_input_range
    from amc_tf.network import NetworkFunction
    from amc_tf.reconstruct import Reconstructor

    network = NetworkFunction(model)
    plan.validate(network.graph)
    train, validation = options.load_images(model, args)
    split = split_data(
        train, validation, num_calibration=args.num_calibration_images, num_search=1, seed=args.seed
    )
    images = to_input_range(split.calibration.images, args.input_range)
    weights = network.slice(plan)
    if args.reconstruct:
        weights = Reconstructor(network, calibrate(network, images, seed=args.seed))(plan)
    if args.reestimate_batch_norm:
        weights = BatchNormEstimator(network, images)(weights)
    return weights, validation
