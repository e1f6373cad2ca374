"""Published channel lists: what they cost, and which networks they fit."""

import json

import keras
import pytest

from amc_tf import published
from amc_tf.errors import PlanError
from amc_tf.graph import ChannelGraph, count_cost
from amc_tf.models.mobilenet import cifar_mobilenet, mobilenet_v1
from amc_tf.models.mobilenet_small_images import cifar_mobilenet_v2
from amc_tf.plan import widths_to_plan
from amc_tf.published import list_published_plans, load_published_plan, published_widths
from amc_tf.rebuild import rebuild
from tests.networks import classifier

NAMES = ("amc-mobilenet-v1-50-flops", "amc-mobilenet-v1-50-time", "amc-mobilenet-v2-70-flops")


@pytest.fixture(scope="module")
def full_v1():
    return ChannelGraph.from_model(keras.applications.MobileNet(weights=None))


def test_the_lists_are_those_of_the_authors_for_both_mobilenets():
    assert list_published_plans() == NAMES
    plans = [load_published_plan(name) for name in NAMES]
    assert [tuple(plan.widths.values())[:3] for plan in plans] == [(24, 48, 96), (16, 48, 88), (24, 16, 72)]
    assert [plan.name for plan in plans] == list(NAMES)
    assert all("github.com/mit-han-lab/amc-models" in plan.source for plan in plans)
    assert all(plan.widths[name] <= count for plan in plans for name, count in plan.num_channels.items())


def macs_of_v1(widths):
    """Counts a MobileNet-V1 of these widths for 224x224 images and 1000 classes by hand."""
    size, channels = 112, widths[0]
    macs = size * size * 9 * 3 * channels
    for width, stride in zip(widths[1:], (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1), strict=True):
        size //= stride
        macs += size * size * channels * (9 + width)
        channels = width
    return macs + channels * 1000


@pytest.mark.parametrize(
    ("name", "widths", "megamacs", "percent"),
    [
        (NAMES[0], "24-48-96-80-192-200-328-352-368-360-328-400-736-752", 293.9, 51.7),
        (NAMES[1], "16-48-88-80-192-168-336-360-360-352-352-368-768-680", 274.0, 48.2),
    ],
)
def test_lists_of_mobilenet_v1_miss_the_half_they_are_named_after(name, widths, megamacs, percent, full_v1):
    found = published_widths(name, full_v1)
    macs = full_v1.count(found).macs
    assert "-".join(map(str, found)) == widths
    assert macs == macs_of_v1(found)
    assert round(macs / 1e6, 1) == megamacs
    assert round(100 * macs / full_v1.count().macs, 1) == percent


def test_list_of_mobilenet_v2_costs_seven_tenths():
    graph = ChannelGraph.from_model(keras.applications.MobileNetV2(weights=None))
    macs = graph.count(published_widths(NAMES[2], graph)).macs
    assert round(macs / 1e6, 1) == 210.6
    assert round(100 * macs / graph.count().macs, 1) == 70.0


@pytest.mark.slow
def test_small_images_and_other_classes_are_no_other_network():
    small_v1 = cifar_mobilenet(10, alpha=1.0)
    graph = ChannelGraph.from_model(small_v1)
    widths = published_widths(NAMES[0], graph)
    slim = rebuild(small_v1, widths_to_plan(graph, widths))
    assert slim.get_layer("conv_pw_13").filters == 752
    assert count_cost(slim) == graph.count(widths)


@pytest.mark.slow
def test_the_list_of_v2_fits_its_variant_for_small_images():
    graph = ChannelGraph.from_model(cifar_mobilenet_v2())
    assert published_widths(NAMES[2], graph) == tuple(load_published_plan(NAMES[2]).widths.values())


def test_a_nested_network_is_found_and_layers_around_it_keep_their_channels():
    images = keras.Input((32, 32, 3))
    backbone = keras.applications.MobileNet((32, 32, 3), include_top=False, pooling="avg", weights=None)
    hidden = keras.layers.Dense(48, activation="relu", name="hidden")(backbone(images))
    graph = ChannelGraph.from_model(keras.Model(images, keras.layers.Dense(5)(hidden)))
    widths = dict(zip([group.name for group in graph.groups], published_widths(NAMES[1], graph), strict=True))
    assert widths[f"{backbone.name}/conv1"] == 16
    assert widths[f"{backbone.name}/conv_pw_13"] == 680
    assert widths["hidden"] == 48


def test_another_width_multiplier_is_refused_with_the_first_group_that_differs():
    graph = ChannelGraph.from_model(mobilenet_v1((32, 32, 3), 10, alpha=0.5, block_strides=(1,)))
    words = (
        r"plan amc-mobilenet-v1-50-flops is for keras.applications.MobileNet with alpha 1.0, with 32 "
        r"channels in 'conv1'; 'mobilenet_v1' has 16 there\. .* no other width"
    )
    with pytest.raises(PlanError, match=words):
        published_widths(NAMES[0], graph)


def test_another_architecture_is_refused():
    graph = ChannelGraph.from_model(classifier(keras, keras.layers.Conv2D(12, 3)))
    with pytest.raises(PlanError, match=r"32 channels in 'Conv1'; .* has no such channel group"):
        published_widths(NAMES[2], graph)


def test_an_unknown_name_lists_the_known_ones(full_v1):
    with pytest.raises(PlanError, match="no published plan 'amc'; choose one of: amc-mobilenet-v1-50"):
        published_widths("amc", full_v1)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": "amc-tf plan 1"}', f'{{"format": "{published.FORMAT}"}}']
)
def test_a_damaged_file_is_named(content, tmp_path, monkeypatch):
    (tmp_path / "broken.json").write_text(content)
    monkeypatch.setattr(published, "_folder", lambda: tmp_path)
    with pytest.raises(PlanError, match="broken.json is damaged .*; install the package again"):
        load_published_plan("broken")


def test_files_hold_whole_numbers_within_the_channels_of_their_network():
    for name in NAMES:
        value = json.loads((published._folder() / f"{name}.json").read_text())
        for entry in value["groups"].values():
            assert all(type(number) is int for number in entry.values())
            assert 1 <= entry["width"] <= entry["num_channels"]
            assert entry["width"] % 8 == 0
