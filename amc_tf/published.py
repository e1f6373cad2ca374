"""Published channel lists by name: how many channels of each group others kept.

A published list says how many channels stay, not which: those are chosen by their importance in the network
that the list is applied to.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import amc_tf.models
from amc_tf.errors import PlanError

if TYPE_CHECKING:
    from amc_tf.graph import ChannelGraph

FORMAT = "amc-tf published plan 1"


@dataclasses.dataclass(frozen=True)
class PublishedPlan:
    """A published channel list.

    Attributes:
        name: what it is called here.
        network: the network that it was published for.
        source: where it was published.
        reference: the paper that it belongs to.
        widths: channels that stay, by the name of the channel group.
        num_channels: channels of each of these groups before pruning.
    """

    name: str
    network: str
    source: str
    reference: str
    widths: Mapping[str, int]
    num_channels: Mapping[str, int]


def list_published_plans() -> tuple[str, ...]:
    """Returns the names that `load_published_plan` knows, in alphabetical order."""
    return tuple(sorted(file.stem for file in _folder().glob("*.json")))


def load_published_plan(name: str) -> PublishedPlan:
    """Reads a published channel list.

    Args:
        name: one of `list_published_plans()`.

    Raises:
        PlanError: if no list has this name, or its file is damaged.

    Example:
        >>> load_published_plan("amc-mobilenet-v1-50-flops").widths["conv1"]
        24
    """
    if name not in list_published_plans():
        known = ", ".join(list_published_plans())
        raise PlanError(f"There is no published plan {name!r}; choose one of: {known}.")
    file = _folder() / f"{name}.json"
    try:
        return _parse(name, json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"{file} is damaged ({error!r}); install the package again.") from error


def published_widths(name: str, graph: ChannelGraph) -> tuple[int, ...]:
    """Returns how many channels of each group of a network a published list keeps.

    The network has the architecture and width multiplier of the list, takes images of any size, and has any
    number of classes; it may be nested in another model, whose own groups keep all channels.

    Args:
        name: one of `list_published_plans()`.
        graph: the network.

    Returns:
        The widths, for `amc_tf.plan.widths_to_plan`.

    Raises:
        PlanError: if no list has this name, or a channel group of the network is missing or of another size.
    """
    plan = load_published_plan(name)
    sizes = {group.name: group.num_channels for group in graph.groups}
    prefix = _nesting(next(iter(plan.widths)), sizes)
    for group, count in plan.num_channels.items():
        found = sizes.get(prefix + group)
        if found != count:
            what = "no such channel group" if found is None else f"{found} there"
            raise PlanError(
                f"The published plan {name} is for {plan.network}, with {count} channels in '{group}'; "
                f"'{graph.trace.name}' has {what}. It fits that network with any image size and number of "
                "classes, but no other width or architecture."
            )
    widths = {prefix + group: width for group, width in plan.widths.items()}
    return tuple(widths.get(group, count) for group, count in sizes.items())


def _folder() -> Path:
    return Path(next(iter(amc_tf.models.__path__))) / "plans"


def _parse(name: str, value: Any) -> PublishedPlan:
    if value["format"] != FORMAT:
        raise ValueError(f"the format is {value['format']!r}, not {FORMAT!r}")
    groups = value["groups"]
    return PublishedPlan(
        name=name,
        network=value["network"],
        source=value["source"],
        reference=value["reference"],
        widths={group: entry["width"] for group, entry in groups.items()},
        num_channels={group: entry["num_channels"] for group, entry in groups.items()},
    )


def _nesting(first: str, names: Mapping[str, int]) -> str:
    """Returns the path of the nested model whose group is called `first`: "backbone/", "" for none."""
    paths = (name.removesuffix(first) for name in names if f"/{name}".endswith(f"/{first}"))
    return next(paths, "")
