"""The verb inspect: list the channels of a model that can be pruned, and those that cannot."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from amc_tf.cli import console, options, plans
from amc_tf.cli.text import align, percent, quantity
from amc_tf.errors import BudgetError

if TYPE_CHECKING:
    from amc_tf.graph import ChannelGraph


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, a budget to see the uniform plan of, and a plan to see the cost of."""
    options.add_model(parser)
    options.add_uniform_budget(parser)
    plans.add_plan(parser, required=False)
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="rows and columns to count with where the model takes images of any size (default: 224)",
    )


def run(args: argparse.Namespace) -> int:
    """Prints groups, frozen channels and cost."""
    with console.stdout_for_results():
        from amc_tf.model_file import load_model
        from amc_tf.trace import DEFAULT_IMAGE_SIZE, trace_model

        model = load_model(args.model)
        size = (args.image_size, args.image_size) if args.image_size else DEFAULT_IMAGE_SIZE
        from amc_tf.graph import ChannelGraph

        graph = ChannelGraph(trace_model(model, image_size=size))
        description = _describe(graph)
        if args.budget:
            description["uniform"] = _uniform(graph, args)
        if args.plan:
            widths = plans.plan_widths(args.plan, graph)
            description["plan"] = {"plan": args.plan, **_slimmed(graph, widths)}
    if args.json:
        console.print_json(description)
    else:
        print(_text(description))
    return 0


def _describe(graph: ChannelGraph) -> dict[str, Any]:
    cost = graph.count()
    return {
        "model": graph.trace.name,
        "macs": cost.macs,
        "params": cost.params,
        "bytes": cost.size_bytes,
        "groups": [
            {
                "name": group.name,
                "channels": group.num_channels,
                "producers": list(group.producers),
                "consumers": list(group.consumers),
                "macs_share": graph.group_macs(group.index) / max(cost.macs, 1),
            }
            for group in graph.groups
        ],
        "frozen": [
            {"layer": item.layer, "channels": item.num_channels, "reason": item.reason}
            for item in graph.frozen
        ],
    }


def _uniform(graph: ChannelGraph, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the widest uniform plan within a budget that can be counted."""
    from amc_tf.budget import Budget, WidthBounds
    from amc_tf.controls import uniform

    budget = Budget.parse(args.budget)
    if budget.kind not in ("macs", "params", "bytes"):
        raise BudgetError(f"The budget {budget} cannot be counted: give macs, params or bytes.")
    bounds = WidthBounds(
        graph, budget.resolve(graph.count()), round_to=args.round_to, min_keep_ratio=args.min_keep_ratio
    )
    return {"budget": str(budget), **_slimmed(graph, uniform(bounds))}


def _slimmed(graph: ChannelGraph, widths: Sequence[int]) -> dict[str, Any]:
    """Returns widths by channel group, and the cost of the network that has them."""
    cost = graph.count(widths)
    return {
        "macs": cost.macs,
        "params": cost.params,
        "bytes": cost.size_bytes,
        "widths": {group.name: width for group, width in zip(graph.groups, widths, strict=True)},
    }


def _text(description: dict[str, Any]) -> str:
    slimmed = {name: description[name] for name in ("uniform", "plan") if name in description}
    header = ["channel group", "channels", *slimmed, "MACs share", "made by", "read by"]
    rows = [
        [
            group["name"],
            str(group["channels"]),
            *(str(network["widths"][group["name"]]) for network in slimmed.values()),
            percent(group["macs_share"]),
            _layers(group["producers"]),
            _layers(group["consumers"]),
        ]
        for group in description["groups"]
    ]
    left = (0, len(header) - 2, len(header) - 1)
    parts = [f"{description['model']}: {_cost(description)}", align([header, *rows], left=left)]
    if not rows:
        parts[1] = "Nothing can be pruned."
    if description["frozen"]:
        frozen = [[item["layer"], str(item["channels"]), item["reason"]] for item in description["frozen"]]
        parts.append(align([["frozen channels", "channels", "reason"], *frozen], left=(0, 2)))
    for name, network in slimmed.items():
        what = f"uniform plan of {network['budget']}" if name == "uniform" else network["plan"]
        share = network["macs"] / max(description["macs"], 1)
        parts.append(f"{what}: {_cost(network)}, {percent(share)} of the MACs")
    return "\n\n".join(parts)


def _cost(counts: dict[str, Any]) -> str:
    return f"{quantity(counts['macs'])} MACs, {quantity(counts['params'])} parameters"


def _layers(paths: list[str]) -> str:
    return ", ".join(paths) if len(paths) < 3 else f"{paths[0]} and {len(paths) - 1} more"
