"""The option --plan: the plan of a search, or a published channel list by its name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from amc_tf.errors import PlanError
from amc_tf.published import list_published_plans, published_widths

if TYPE_CHECKING:
    from amc_tf.graph import ChannelGraph
    from amc_tf.plan import PruningPlan


def add_plan(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds the plan: the one to apply, or, where it need not be given, one to show."""
    sources = f"plan.json of a search, or one of the published plans {', '.join(list_published_plans())}"
    parser.add_argument(
        "--plan",
        metavar="PLAN",
        required=required,
        help=sources if required else f"show widths and cost of a plan too: {sources}",
    )


def read_plan(source: str) -> PruningPlan | None:
    """Reads a plan from a file.

    Args:
        source: Path of the file, or the name of a published plan; a file of that name goes first.

    Returns:
        The plan, None for the name of a published one: that has widths only.

    Raises:
        PlanError: There is no such file or name, or the file holds no plan.
    """
    from amc_tf.plan import PruningPlan

    path = Path(source).expanduser()
    if not path.exists():
        if source in list_published_plans():
            return None
        if not path.suffix and len(path.parts) == 1:
            known = ", ".join(list_published_plans())
            raise PlanError(
                f"There is no plan '{source}'; give the plan.json of a search, or one of: {known}."
            )
    return PruningPlan.load(path)


def plan_widths(source: str, graph: ChannelGraph) -> tuple[int, ...]:
    """Returns how many channels of each group of a network a plan keeps.

    Raises:
        PlanError: There is no such plan, or it is not for this network.
    """
    plan = read_plan(source)
    if plan is None:
        return published_widths(source, graph)
    plan.validate(graph)
    return plan.widths(graph)
