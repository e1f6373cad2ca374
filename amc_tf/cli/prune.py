"""The verb prune: remove the channels that a plan names, and save the slim model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from amc_tf.cli import console, options, plans
from amc_tf.cli.text import percent, quantity
from amc_tf.published import published_widths

if TYPE_CHECKING:
    from amc_tf.candidate import CandidateBuilder
    from amc_tf.data import ImageData
    from amc_tf.network import NetworkFunction
    from amc_tf.plan import PruningPlan
    from amc_tf.weights import Weights

# Which channels of a published plan stay where no images are given: it needs the weights alone.
_WEIGHTS_IMPORTANCE = "l2_consumer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds model, plan, output, and the data that recovers accuracy."""
    options.add_model(parser)
    plans.add_plan(parser, required=True)
    options.add_output_file(parser, "the .keras file to write")
    options.add_data(parser, required=False)
    options.add_recovery(parser)
    options.add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Prunes and prints cost, and with data accuracy, before and after."""
    with console.stdout_for_results():
        path = console.check_output(args.out, overwrite=args.overwrite, suffixes=(".keras",))
        from amc_tf.model_file import load_model
        from amc_tf.rebuild import rebuild
        from amc_tf.run_folder import write_keras_model

        plan = plans.read_plan(args.plan)
        model = load_model(args.model)
        weights, test = None, None
        if args.data:
            plan, weights, test = _recover(model, plan, args)
        elif plan is None:
            plan = _choose_channels(model, args.plan)
        slim = rebuild(model, plan, weights)
        results = {"before": _measure(model, test, args), "after": _measure(slim, test, args)}
        write_keras_model(slim, path)
    if args.json:
        console.print_json({"model": str(path), **results})
        return 0
    for name, result in results.items():
        accuracy = f", top-1 {percent(result['top1'])}" if "top1" in result else ""
        print(f"{name}: {quantity(result['macs'])} MACs, {quantity(result['params'])} parameters{accuracy}")
    print(path)
    return 0


def _measure(network: Any, test: ImageData | None, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the cost of a network, and with validation images its accuracy."""
    from amc_tf.graph import count_cost

    cost = count_cost(network)
    accuracy = {} if test is None else {"top1": options.top1(network, test, args)}
    return {"macs": cost.macs, "params": cost.params, **accuracy}


def _choose_channels(model: Any, name: str) -> PruningPlan:
    """Returns a published plan for a model, its channels chosen by their weights."""
    from amc_tf.calibration import Calibration
    from amc_tf.importance import find_importance
    from amc_tf.network import NetworkFunction
    from amc_tf.plan import widths_to_plan

    network = NetworkFunction(model)
    widths = published_widths(name, network.graph)
    score = find_importance(_WEIGHTS_IMPORTANCE)
    scores = score(network.graph, network.fold(network.weights), Calibration({}))
    return widths_to_plan(network.graph, widths, scores=scores)


def _recover(
    model: Any, plan: PruningPlan | None, args: argparse.Namespace
) -> tuple[PruningPlan, Weights, ImageData]:
    """Returns the plan, the weights of the slim model, re-fitted to data, and the validation images."""
    from amc_tf.data import split_data, to_input_range
    from amc_tf.network import NetworkFunction

    network = NetworkFunction(model)
    widths = plans.plan_widths(args.plan, network.graph)
    train, validation = options.load_images(model, args)
    split = split_data(
        train, validation, num_calibration=args.num_calibration_images, num_search=1, seed=args.seed
    )
    builder = _make_builder(network, to_input_range(split.calibration.images, args.input_range), args)
    chosen = builder.plan(widths) if plan is None else plan
    return chosen, builder.weights(chosen), validation


def _make_builder(network: NetworkFunction, images: Any, args: argparse.Namespace) -> CandidateBuilder:
    """Returns what turns widths into a network, with the recoveries that are on."""
    from amc_tf.batch_norm import BatchNormEstimator
    from amc_tf.calibration import calibrate
    from amc_tf.candidate import CandidateBuilder

    return CandidateBuilder(
        network,
        calibrate(network, images, seed=args.seed),
        importance=options.SEARCH.importance,
        reconstruct=args.reconstruct,
        batch_norm=BatchNormEstimator(network, images) if args.reestimate_batch_norm else None,
    )
