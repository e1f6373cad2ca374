"""Finds out which channels of a network must shrink together, and which must stay."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc_tf.cost import Cost, CostTable, WeightEntry
from amc_tf.errors import ModelError, PlanError
from amc_tf.layers.base import LayerRule
from amc_tf.layers.labels import Labels, LabelSets
from amc_tf.layers.rules import find_rule
from amc_tf.trace import Trace, trace_model


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """Channels that are removed together, in all layers that hold them.

    Channel i of a group is the i-th one in the first layer that makes it. What the paper's state asks about a
    layer is asked about that first layer.

    Attributes:
        name: path of the first layer that makes the channels.
        index: position in network order.
        num_channels: channels before pruning.
        producers: paths of the layers that make them.
        consumers: paths of the layers that sum over them.
        input_channels: channels that the first producer reads.
        height: rows of its input, 1 for Dense.
        width: columns of its input, 1 for Dense.
        kernel_size: rows of its kernel, 1 for Dense.
        stride: its stride, 1 for Dense.
    """

    name: str
    index: int
    num_channels: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    input_channels: int
    height: int
    width: int
    kernel_size: int
    stride: int


@dataclasses.dataclass(frozen=True)
class FrozenChannels:
    """Channels of a layer that cannot be removed.

    Attributes:
        layer: path of the layer that makes them.
        reason: why they stay, naming the layer that needs them.
        num_channels: how many they are.
    """

    layer: str
    reason: str
    num_channels: int


@dataclasses.dataclass(frozen=True)
class ChannelMap:
    """Which channel stands at each position of an axis.

    Attributes:
        group: int32 [positions], index of the channel group, -1 where the channel is frozen.
        channel: int32 [positions], channel within that group, -1 where frozen.
    """

    group: NDArray[np.int32]
    channel: NDArray[np.int32]

    def kept(self, kept: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """Tells which positions stay, given a bool [channels] mask for each group."""
        mask = np.ones(len(self.group), dtype=bool)
        for index in np.unique(self.group[self.group >= 0]):
            here = self.group == index
            mask[here] = kept[index][self.channel[here]]
        return mask


class ChannelGraph:
    """The channels of a network: groups that can shrink, frozen rest, exact cost.

    Use `ChannelGraph.from_model`.

    Attributes:
        trace: the calls of the network.
        rules: the layer rule for each call, in the same order.
        groups: the prunable channel groups in network order.
        frozen: what stays, with the reason.
        axes: for each layer path and weight name, the channel map of each axis (None: never shrinks).
        outputs: for each call, the channel map of each output.
    """

    def __init__(self, trace: Trace) -> None:
        wired = _Wired(trace)
        self.trace = trace
        self.rules: tuple[LayerRule, ...] = wired.rules
        numbering = _Numbering(wired)
        self.groups: tuple[ChannelGroup, ...] = numbering.groups
        self.frozen: tuple[FrozenChannels, ...] = numbering.frozen
        self.axes: dict[str, dict[str, tuple[ChannelMap | None, ...]]] = {
            path: {name: tuple(map(numbering.channel_map, axes)) for name, axes in weights.items()}
            for path, weights in wired.axes.items()
        }
        self.outputs: tuple[tuple[ChannelMap, ...], ...] = tuple(
            tuple(map(numbering.positions, group)) for group in wired.outputs
        )
        self._layers = {
            call.path: (call.layer, rule) for call, rule in zip(trace.calls, self.rules, strict=True)
        }
        self._costs = _cost_table(self)

    @classmethod
    def from_model(cls, model: Any) -> ChannelGraph:
        """Analyses a classifier.

        Args:
            model: a built functional or Sequential model of Keras 3 or `tf_keras`; it is not changed.

        Raises:
            ModelError: if the model cannot be read, or none of its channels can be removed.

        Example:
            >>> import keras, amc_tf
            >>> model = keras.applications.MobileNet(weights=None)
            >>> len(amc_tf.ChannelGraph.from_model(model).groups)
            14
        """
        graph = cls(trace_model(model))
        if not graph.groups:
            listed = "; ".join(f"{item.layer}: {item.reason}" for item in graph.frozen)
            raise ModelError(
                f"Nothing in '{graph.trace.name}' can be pruned ({listed or 'no layer has channels'})."
            )
        return graph

    @property
    def full_widths(self) -> tuple[int, ...]:
        """The number of channels of each group before pruning."""
        return tuple(group.num_channels for group in self.groups)

    def count(self, widths: Sequence[int] | None = None) -> Cost:
        """Counts the exact cost of the network that keeps `widths[g]` channels of group g (None: all)."""
        return self._costs.count(self._checked(widths))

    def layer_macs(self, widths: Sequence[int] | None = None) -> dict[str, int]:
        """Counts the multiply-accumulates of each layer that has weights, by its path."""
        return self._costs.layer_macs(self._checked(widths))

    def group_macs(self, index: int, widths: Sequence[int] | None = None) -> int:
        """Counts the multiply-accumulates of all weights that hold channels of one group."""
        return self._costs.group_macs(index, self._checked(widths))

    def layers(self) -> Mapping[str, tuple[Any, LayerRule]]:
        """Returns layer and rule by path, each once, in network order."""
        return self._layers

    def _checked(self, widths: Sequence[int] | None) -> Sequence[int]:
        if widths is None:
            return self.full_widths
        if len(widths) != len(self.groups):
            raise PlanError(
                f"{len(widths)} widths were given for the {len(self.groups)} groups of the network."
            )
        return widths


def count_cost(model: Any) -> Cost:
    """Counts a model as it is.

    Args:
        model: a built functional or Sequential model of Keras 3 or `tf_keras`.

    Returns:
        Its multiply-accumulates per image, parameters and float32 bytes.

    Raises:
        ModelError: if the model cannot be read.
    """
    return ChannelGraph(trace_model(model)).count()


class _Wired:
    """Runs the rules over the calls of a trace: labels of every weight axis and every output."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.labels = LabelSets()
        self.rules = tuple(find_rule(call) for call in trace.calls)
        self.axes: dict[str, dict[str, tuple[Labels | None, ...]]] = {}
        self.outputs: list[list[Labels]] = []
        self.inputs = [self.labels.new(shape[-1] if shape else 0) for shape in trace.input_shapes]
        tensors: dict[int, Labels] = dict(zip(trace.inputs, self.inputs, strict=True))
        for group in self.inputs:
            self.labels.freeze(group, trace.name, "the model's input is given")
        for call, rule in zip(trace.calls, self.rules, strict=True):
            wiring = rule.connect(call, [tensors[number] for number in call.inputs], self.labels)
            self._join_axes(call.path, wiring.axes)
            self.outputs.append(wiring.outputs)
            tensors.update(zip(call.outputs, wiring.outputs, strict=True))
        for number in trace.outputs:
            reason = "the model's outputs are the classes"
            self.labels.freeze(tensors[number], trace.name, reason, overrule=True)

    def _join_axes(self, path: str, axes: Mapping[str, tuple[Labels | None, ...]]) -> None:
        """Remembers the axes of a layer; those of a further call of it are tied to the first's."""
        known = self.axes.setdefault(path, dict(axes))
        for name, labels in axes.items():
            for first, second in zip(known[name], labels, strict=True):
                if first is not None and second is not None:
                    self.labels.tie(first, second)


@dataclasses.dataclass(frozen=True)
class _Axis:
    """One weight axis along which channels run; `roots` names the label set at each position."""

    path: str
    roots: tuple[int, ...]
    written: bool
    read: bool


class _Numbering:
    """Sorts label sets into channel groups: sets that stand on the same weight axes equally often."""

    def __init__(self, wired: _Wired) -> None:
        self._wired = wired
        self._axes = _list_axes(wired)
        self._place: dict[int, tuple[int, int]] = {}
        members = self._members_by_signature()
        for index, roots in enumerate(members):
            self._place.update({root: (index, channel) for channel, root in enumerate(roots)})
        self.groups = tuple(self._describe(index, roots) for index, roots in enumerate(members))
        self.frozen = self._list_frozen()

    def channel_map(self, labels: Labels | None) -> ChannelMap | None:
        """Returns the channel map of an axis, None if nothing on it can be removed."""
        if labels is None:
            return None
        channel_map = self.positions(labels)
        return channel_map if (channel_map.group >= 0).any() else None

    def positions(self, labels: Labels) -> ChannelMap:
        """Looks up group and channel of each label."""
        places = [self._place.get(root, (-1, -1)) for root in self._wired.labels.roots(labels).tolist()]
        array = np.array(places, dtype=np.int32).reshape(-1, 2)
        return ChannelMap(array[:, 0], array[:, 1])

    def _members_by_signature(self) -> list[list[int]]:
        """Lists the label sets of each group, groups and sets in network order."""
        signatures: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for number, axis in enumerate(self._axes):
            for root, count in Counter(axis.roots).items():
                signatures[root].append((number, count))
        groups: dict[tuple[tuple[int, int], ...], dict[int, None]] = defaultdict(dict)
        for axis in self._axes:
            for root in axis.roots if axis.written else ():
                if self._wired.labels.why_frozen(root) is None:
                    groups[tuple(signatures[root])][root] = None
        return [list(roots) for roots in groups.values() if len(roots) > 1]

    def _describe(self, index: int, roots: list[int]) -> ChannelGroup:
        wanted = set(roots)
        holding = [axis for axis in self._axes if not wanted.isdisjoint(axis.roots)]
        first = next(axis for axis in holding if axis.written)
        earlier = {self._place[root][0] for root in first.roots if root in self._place} & set(range(index))
        call = next(call for call in self._wired.trace.calls if call.path == first.path)
        shape = call.input_shapes[0]
        height, width = shape[:2] if len(shape) == 3 else (1, 1)
        return ChannelGroup(
            # Numbered among the groups of this layer: a position would change with the widths before it.
            name=f"{first.path}[{len(earlier)}]" if earlier else first.path,
            index=index,
            num_channels=len(roots),
            producers=tuple(axis.path for axis in holding if axis.written),
            consumers=tuple(axis.path for axis in holding if axis.read),
            input_channels=shape[-1],
            height=height,
            width=width,
            kernel_size=getattr(call.layer, "kernel_size", (1,))[0],
            stride=getattr(call.layer, "strides", (1,))[0],
        )

    def _list_frozen(self) -> tuple[FrozenChannels, ...]:
        """Lists the frozen channels under the first layer that puts them out, model inputs left out."""
        labels = self._wired.labels
        seen = {root for group in self._wired.inputs for root in labels.roots(group).tolist()}
        found: list[FrozenChannels] = []
        for call, outputs in zip(self._wired.trace.calls, self._wired.outputs, strict=True):
            roots = [root for group in outputs for root in labels.roots(group).tolist()]
            fresh = [root for root in roots if root not in seen and root not in self._place]
            reasons = Counter(self._why(root, call.path) for root in fresh)
            found.extend(FrozenChannels(call.path, reason, count) for reason, count in reasons.items())
            seen.update(roots)
        return tuple(found)

    def _why(self, root: int, path: str) -> str:
        where, why = self._wired.labels.why_frozen(root) or (path, "a single channel cannot shrink")
        return why if where == path else f"{why} ({where})"


def _list_axes(wired: _Wired) -> list[_Axis]:
    """Lists the weight axes with channels in network order, label sets resolved."""
    rules = {call.path: rule for call, rule in zip(wired.trace.calls, wired.rules, strict=True)}
    return [
        _Axis(
            path,
            tuple(wired.labels.roots(labels).tolist()),
            written=rules[path].writes == (name, axis),
            read=rules[path].reads == (name, axis),
        )
        for path, weights in wired.axes.items()
        for name, axes in weights.items()
        for axis, labels in enumerate(axes)
        if labels is not None
    ]


def _cost_table(graph: ChannelGraph) -> CostTable:
    """Writes every weight array of the network as a product of axis lengths."""
    positions: Counter[tuple[str, str]] = Counter()
    for call, rule in zip(graph.trace.calls, graph.rules, strict=True):
        positions.update({(call.path, name): count for name, count in rule.mac_positions(call).items()})
    rows: list[ChannelMap] = []
    entries = []
    for path, (layer, rule) in graph.layers().items():
        for name, array in named_weights(layer, rule).items():
            maps = graph.axes[path].get(name, (None,) * len(array.shape))
            constant = math.prod(size for size, item in zip(array.shape, maps, strict=True) if item is None)
            shrinking = [item for item in maps if item is not None]
            numbers = tuple(range(len(rows), len(rows) + len(shrinking)))
            rows.extend(shrinking)
            entries.append(WeightEntry(path, constant, numbers, positions[path, name]))
    fixed = np.array([(row.group < 0).sum() for row in rows], dtype=np.int64)
    multiplicity = np.zeros((len(rows), len(graph.groups)), dtype=np.int64)
    for number, row in enumerate(rows):
        for index, count in Counter(row.group[row.group >= 0].tolist()).items():
            multiplicity[number, index] = count // graph.groups[index].num_channels
    return CostTable(entries, fixed, multiplicity)


def named_weights(layer: Any, rule: LayerRule) -> dict[str, Any]:
    """Returns the variables of a layer by the names its rule gives them (numbers where it gives none)."""
    variables = getattr(layer, "weights", [])
    names = rule.weight_names(layer) or tuple(map(str, range(len(variables))))
    return dict(zip(names, variables, strict=True))
