from __future__ import annotations

from itertools import permutations

import pytest
import torch

from hardnet_suite.networks import ARCHS, build_network
from hardnet_suite.weights import convert_official, split_official, to_official
from hardnet_suite.weights.convert import is_bare_trunk

CLASSIFIERS = ["hardnet39ds", "hardnet68ds", "hardnet68", "hardnet85"]
SSDS = ["ssd512_hardnet68", "ssd512_hardnet85"]
DETECTORS = [*SSDS, "centernet_hardnet68", "centernet_hardnet85"]
SEGMENTOR = "fchardnet70"
TARGETS = [
    *((name, "network") for name in [*CLASSIFIERS, *DETECTORS, SEGMENTOR]),
    *((name, "mmdet") for name in DETECTORS),
    (SEGMENTOR, "mmseg"),
]


@pytest.fixture
def official(golden):
    """Official keys and shapes with random values, each call another model's."""

    def make(name: str) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {
            key: torch.rand(shape, generator=generator) for key, shape in golden.entries[name]["state_dict"]
        }

    return make


@pytest.fixture
def official_shapes(golden):
    """The same without values, where keys and shapes are all that counts."""

    def make(name: str) -> dict[str, torch.Tensor]:
        return {key: torch.empty(shape, device="meta") for key, shape in golden.entries[name]["state_dict"]}

    return make


def shapes(tensors) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in tensors.items()}


@pytest.mark.parametrize("name", [*CLASSIFIERS, *DETECTORS, SEGMENTOR])
def test_nothing_is_missing_and_nothing_over(official_shapes, name):
    with torch.device("meta"):
        network = build_network(name)
    assert shapes(convert_official(name, official_shapes(name))) == shapes(network.state_dict())


@pytest.mark.parametrize(("name", "target"), TARGETS)
def test_there_and_back_is_the_same(official, name, target):
    before = official(name)
    there = convert_official(name, before, target=target)
    back = to_official(name, there, target=target)
    assert len(there) == len(before)
    assert list(back) == list(before)
    assert all(torch.equal(back[key], before[key]) for key in before)


# ours -> theirs
SSD_PARTS = {"trunk": "backbone.trunk", "cls": "bbox_head.cls_convs", "box": "bbox_head.reg_convs"}
CENTERNET_PARTS = {
    "trunk": "backbone.trunk",
    "decoder": "neck",
    "hm": "bbox_head.hm",
    "wh": "bbox_head.wh",
}


@pytest.mark.parametrize("name", DETECTORS)
def test_the_detector_has_its_parts_where_mmdet_looks(official_shapes, name):
    parts, renamed = SSD_PARTS if name in SSDS else CENTERNET_PARTS, {}
    for key, value in convert_official(name, official_shapes(name)).items():
        part, rest = key.split(".", 1)
        renamed[f"{parts.get(part, part)}.{rest}"] = value.shape
    theirs = convert_official(name, official_shapes(name), target="mmdet")
    assert shapes(theirs) == renamed
    assert {key.split(".")[0] for key in theirs} == {"backbone", "neck", "bbox_head"}


@pytest.mark.parametrize(("level", "boxes"), [(0, 6), (5, 4)])
@pytest.mark.parametrize("classes", [80, 3])
def test_background_goes_from_first_to_last_of_each_box(level, boxes, classes):
    """Value 100·box + official class, 0 being the background."""
    values = torch.tensor([100.0 * box + c for box in range(boxes) for c in range(classes + 1)])
    expected = torch.tensor([100.0 * box + c for box in range(boxes) for c in [*range(1, classes + 1), 0]])
    weight = values.view(-1, 1, 1, 1).expand(-1, 2, 3, 3)
    official = {
        f"conf.{level}.bias": values,
        f"conf.{level}.weight": weight,
        f"loc.{level}.bias": torch.arange(4.0 * boxes),
    }
    ours = convert_official("ssd512_hardnet68", official)
    assert torch.equal(ours[f"cls.{level}.bias"], expected)
    assert torch.equal(ours[f"cls.{level}.weight"], expected.view(-1, 1, 1, 1).expand(-1, 2, 3, 3))
    assert torch.equal(ours[f"box.{level}.bias"], official[f"loc.{level}.bias"])
    assert torch.equal(to_official("ssd512_hardnet68", ours)[f"conf.{level}.bias"], values)


def test_a_few_keys_by_hand():
    one = torch.zeros(1)
    keys = {
        "base.0.conv.weight": "trunk.stem.0.conv.weight",
        "base.3.layers.7.norm.bias": "trunk.stages.0.block.layers.7.norm.bias",
        "base.4.conv.weight": "trunk.stages.0.transition.conv.weight",
        "base.16.3.bias": "fc.bias",
    }
    assert list(convert_official("hardnet68", dict.fromkeys(keys, one))) == list(keys.values())
    assert list(convert_official("hardnet85", {"base.18.conv.weight": one, "base.19.3.weight": one})) == [
        "trunk.stages.5.transition.conv.weight",  # the published list counts the dropout before it
        "fc.weight",
    ]
    assert list(convert_official("ssd512_hardnet68", {"base.13.1.weight": one, "L2Norm.weight": one})) == [
        "neck.bridge.conv1.conv.weight",
        "neck.norm.weight",
    ]
    assert list(convert_official("ssd512_hardnet85", {"bridge.1.conv.weight": one})) == [
        "neck.bridge.conv1.conv.weight"
    ]


@pytest.mark.parametrize("name", DETECTORS)
def test_a_bare_trunk_is_taken_as_the_trunk(official_shapes, name):
    whole = {k: v for k, v in official_shapes(name).items() if k.startswith("base.")}
    bare = {key.removeprefix("base."): value for key, value in whole.items()}
    assert is_bare_trunk(bare)
    assert not is_bare_trunk(whole)
    assert not is_bare_trunk({})
    converted, left = split_official(name, bare)
    assert left == []
    assert shapes(converted) == shapes(convert_official(name, whole))


def test_a_trunk_with_later_layers_leaves_those(official_shapes):
    classifier = official_shapes("hardnet85")
    converted, left = split_official("ssd512_hardnet85", classifier)
    assert left == [key for key in classifier if int(key.split(".")[1]) >= 16]
    assert all(key.startswith("trunk.") for key in converted)
    assert len(converted) + len(left) == len(classifier)


@pytest.mark.parametrize(("name", "source"), permutations(CLASSIFIERS, 2))
def test_another_models_keys_are_refused(official_shapes, name, source):
    own = official_shapes(name).keys()
    strangers = [key for key in official_shapes(source) if key not in own]
    with pytest.raises(ValueError, match=f"not keys of the official {name}: ") as caught:
        convert_official(name, official_shapes(source))
    assert strangers[0] in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        "base.3.layers.99.conv.weight",  # a part that exists, a layer that does not
        "base.0.conv.bias",
        "base.2.weight",  # a pool
        "module.base.0.conv.weight",
        "0.conv.weight.more",
        "fc.weight",
    ],
)
def test_keys_that_do_not_belong_are_named(official_shapes, key):
    tensors = official_shapes("hardnet68") | {key: torch.zeros(1)}
    with pytest.raises(ValueError, match="hardnet68") as caught:
        convert_official("hardnet68", tensors)
    assert key in str(caught.value)
    assert split_official("hardnet68", tensors)[1] == [key]


def test_many_keys_are_not_all_listed():
    with pytest.raises(ValueError, match=r"x4 and 3 more$"):
        convert_official("hardnet68", {f"x{i}": torch.zeros(1) for i in range(8)})


@pytest.mark.parametrize("target", ["network", "mmdet"])
def test_the_way_back_refuses_strange_keys(official_shapes, target):
    ours = convert_official("ssd512_hardnet68", official_shapes("ssd512_hardnet68"), target=target)
    with pytest.raises(ValueError, match=f"not keys of ssd512_hardnet68 .{target}.: neck.fpn"):
        to_official("ssd512_hardnet68", ours | {"neck.fpn": torch.zeros(1)}, target=target)


@pytest.mark.parametrize(("made_for", "taken_as"), [("network", "mmdet"), ("mmdet", "network")])
def test_the_way_back_refuses_the_other_targets_keys(official_shapes, made_for, taken_as):
    ours = convert_official("ssd512_hardnet68", official_shapes("ssd512_hardnet68"), target=made_for)
    with pytest.raises(ValueError, match="not keys of ssd512_hardnet68"):
        to_official("ssd512_hardnet68", ours, target=taken_as)


@pytest.mark.parametrize("call", [convert_official, to_official])
def test_unknown_names_and_targets(call):
    with pytest.raises(ValueError, match=r"'hardnet67'.*hardnet68") as caught:
        call("hardnet67", {})
    assert all(name in str(caught.value) for name in ARCHS)
    with pytest.raises(ValueError, match=r"target='mmpose'.*allowed: network, mmdet, mmseg"):
        call("hardnet68", {}, target="mmpose")
    with pytest.raises(ValueError, match="'hardnet68' has no mmdet model"):
        call("hardnet68", {}, target="mmdet")
    with pytest.raises(ValueError, match="'ssd512_hardnet68' has no mmseg model"):
        call("ssd512_hardnet68", {}, target="mmseg")


def test_the_input_stays_as_it_is(official):
    before = official("hardnet39ds")
    copy = dict(before)
    converted = convert_official("hardnet39ds", before)
    converted.clear()
    assert before == copy
