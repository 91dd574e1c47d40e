from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from hardnet_suite.networks import (
    ARCHS,
    HarDNetArch,
    HarDNetClassifier,
    Priors,
    SSDArch,
    Stage,
    build_network,
    count_parameters,
    find_arch,
    list_models,
    multiply_adds,
    trunk_arch,
)
from hardnet_suite.networks.arch import arch_from_dict, arch_to_dict

CLASSIFIERS = ["hardnet39ds", "hardnet68ds", "hardnet68", "hardnet85"]
PUBLISHED = [*CLASSIFIERS, "ssd512_hardnet68", "ssd512_hardnet85", "hardnet_descriptor"]
TINY = HarDNetArch(
    stem=(8, 12), stages=(Stage(8, 4, 24, downsample=True), Stage(8, 2, 32)), num_classes=5, dropout=0.0
)


def on_meta(name, **options):
    """The network without memory or arithmetic: shapes and counts only."""
    with torch.device("meta"):
        return build_network(name, **options)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count_is_the_official_one(golden, name):
    assert count_parameters(on_meta(name)) == golden.entries[name]["params"]


@pytest.mark.parametrize(
    ("name", "size", "giga", "half_a_unit"),
    [
        ("hardnet39ds", 224, 0.4295, 5e-5),
        ("hardnet68ds", 224, 0.7753, 5e-5),
        ("hardnet68", 224, 4.2461, 5e-5),
        ("hardnet85", 224, 9.0741, 5e-5),
        ("ssd512_hardnet68", 512, 34.43, 5e-3),
        ("ssd512_hardnet85", 512, 60.63, 5e-3),
    ],
)
def test_multiply_adds_are_the_official_ones(name, size, giga, half_a_unit):
    assert multiply_adds(on_meta(name), (1, 3, size, size)) / 1e9 == pytest.approx(giga, abs=half_a_unit)


def test_multiply_adds_of_hand_counted_layers_leave_the_mode_alone():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Flatten()).train()
    assert multiply_adds(network, (1, 3, 5, 7)) == 3 * 8 * 9 * 5 * 7
    assert network.training


def test_the_table_lists_its_names_sorted():
    assert list_models() == sorted(ARCHS)
    assert set(PUBLISHED) <= set(list_models())


def test_rows_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ARCHS["hardnet68"].act = "relu"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="hardnet67") as caught:
        find_arch("hardnet67")
    assert all(name in str(caught.value) for name in list_models())


def test_a_detectors_trunk_is_its_own_and_a_classifier_is_one():
    assert trunk_arch("hardnet68") is ARCHS["hardnet68"]
    trunk = trunk_arch("ssd512_hardnet68")
    assert trunk is ARCHS["ssd512_hardnet68"].trunk
    assert trunk.stages == ARCHS["hardnet68"].stages[:-1]
    assert (trunk.act, trunk.first_pool_ceil) == ("relu", True)
    with pytest.raises(ValueError, match="'hardnet_descriptor' has no HarDNet trunk"):
        trunk_arch("hardnet_descriptor")


def test_boxes_at_a_location():
    assert ARCHS["ssd512_hardnet68"].priors.per_location == (6, 6, 6, 6, 6, 4, 4)
    assert Priors(sizes=(1, 2), ratios=((),), strides=(8,)).per_location == (2,)


def test_another_width_and_depth_come_from_a_record():
    network = build_network("hardnet68", arch=TINY)
    assert isinstance(network, HarDNetClassifier)
    assert network.num_features == 32
    assert [len(stage.block.layers) for stage in network.trunk.stages] == [4, 2]
    assert network.trunk.stem[1].conv.out_channels == 12
    assert network.eval()(torch.zeros(1, 3, 32, 40)).shape == (1, 5)


def test_a_record_may_change_activation_and_pool():
    arch = dataclasses.replace(TINY, act="relu", pool="average")
    layers = [type(layer) for layer in build_network("hardnet68", arch=arch).modules()]
    assert torch.nn.AvgPool2d in layers
    assert torch.nn.ReLU in layers
    assert not {torch.nn.MaxPool2d, torch.nn.ReLU6} & {*layers}


def test_numbers_may_be_numpys():
    arch = dataclasses.replace(
        TINY, num_classes=np.int64(4), growth_mul=np.float32(1.5), dropout=np.float64(0.5)
    )
    assert arch == dataclasses.replace(TINY, num_classes=4, growth_mul=1.5, dropout=0.5)
    assert [type(value) for value in (arch.num_classes, arch.growth_mul, arch.dropout)] == [int, float, float]


@pytest.mark.parametrize(("field", "allowed"), [("act", "relu, relu6"), ("pool", "max, average")])
def test_unknown_activation_or_pool(field, allowed):
    with pytest.raises(ValueError, match=f"{field}='swish'.*{allowed}"):
        build_network("hardnet68", arch=dataclasses.replace(TINY, **{field: "swish"}))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("hardnet68", {"dropout": 2.0}, r"HarDNetArch\.dropout must be a number from 0 to 1, got 2\.0"),
        ("hardnet68", {"last_dropout": math.nan}, r"last_dropout must be .* got nan"),
        ("hardnet68", {"width_multiple": 0}, r"width_multiple must be an integer of at least 1, got 0"),
        ("hardnet68", {"width_multiple": 2.0}, r"width_multiple is 2\.0, expected int"),
        (
            "hardnet68",
            {"growth_mul": math.nan},
            "growth_mul must be a finite number greater than 0",
        ),
        ("hardnet68", {"growth_mul": math.inf}, r"growth_mul .* got inf"),
        ("hardnet68", {"growth_mul": 0}, r"growth_mul .* got 0"),
        ("hardnet68", {"growth_mul": -1.7}, r"growth_mul .* got -1\.7"),
        ("hardnet68", {"growth_mul": 10**400}, r"growth_mul is 1000.*, expected float"),
        ("hardnet68", {"growth_mul": 1e300}, r"growth_mul must be at most 16777216, got 1e\+300"),
        ("hardnet68", {"stem": (32, 10**400)}, r"stem\[1\] must be at most 16777216, got 1000"),
        ("hardnet68", {"growth_mul": "1.7"}, r"growth_mul is '1\.7', expected float"),
        ("hardnet68", {"stem": ()}, r"HarDNetArch\.stem must not be empty"),
        ("hardnet68", {"stem": (32, 0)}, r"stem\[1\] must be an integer of at least 1, got 0"),
        ("hardnet68", {"stem": 32}, r"stem is 32, expected tuple\[int, \.\.\.\]"),
        ("hardnet68", {"stages": (1, 2)}, r"HarDNetArch\.stages is 1, expected Stage"),
        ("hardnet68", {"block_act": ""}, "block_act='' is unknown; allowed: relu, relu6"),
        ("hardnet68", {"depthwise": "no"}, r"depthwise is 'no', expected bool"),
        ("hardnet68", {"num_classes": -1}, r"HarDNetArch\.num_classes must be an integer of at least 0"),
        ("ssd512_hardnet68", {"num_classes": 0}, r"SSDArch\.num_classes must be an integer of at least 1"),
        ("ssd512_hardnet68", {"size": 0}, r"SSDArch\.size must be an integer of at least 1"),
        ("ssd512_hardnet68", {"trunk": None}, r"SSDArch\.trunk is None, expected HarDNetArch"),
        ("ssd512_hardnet68", {"l2norm_scale": math.inf}, r"l2norm_scale must be a finite number"),
        ("centernet_hardnet68", {"least_width": 0}, r"CenterNetArch\.least_width must be"),
        ("fchardnet70", {"last_channels": -1}, r"FCHarDNetArch\.last_channels must be .* at least 0"),
        ("hardnet_mseg", {"channels": 0}, r"MSEGArch\.channels must be"),
        ("hardnet_descriptor", {"layers": ((32, 0),)}, r"DescriptorArch\.layers\[0\]\[1\] must be"),
        ("hardnet_descriptor", {"dropout": -0.1}, r"DescriptorArch\.dropout must be a number from 0 to 1"),
    ],
)
def test_values_out_of_range(name, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ARCHS[name], **changes)
    with pytest.raises(ValueError, match=message):  # of a file, which never holds an object
        arch_from_dict(arch_to_dict(ARCHS[name]) | changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((8, 0, 64), r"Stage\.layers must be an integer of at least 1, got 0"),
        ((0, 4, 64), r"Stage\.growth must be"),
        ((8, 4, 0), r"Stage\.channels must be"),
        ((8, 4, 64, 1), r"Stage\.downsample is 1, expected bool"),
    ],
)
def test_stages_that_do_not_exist(values, message):
    with pytest.raises(ValueError, match=message):
        Stage(*values)


def test_lists_in_a_record_are_tuples():
    arch = dataclasses.replace(TINY, stem=[8, 12], stages=[*TINY.stages])
    assert arch == TINY
    assert hash(arch) == hash(TINY)


@pytest.mark.parametrize(
    ("name", "arch", "wanted", "given"),
    [
        ("hardnet68", ARCHS["ssd512_hardnet68"], "HarDNetArch", "SSDArch"),
        ("ssd512_hardnet68", TINY, "SSDArch", "HarDNetArch"),
        ("hardnet68", "hardnet85", "HarDNetArch", "str"),
    ],
)
def test_a_record_of_the_wrong_kind(name, arch, wanted, given):
    with pytest.raises(ValueError, match=f"{name}.*must be a {wanted}, got {given}"):
        build_network(name, arch=arch)


@pytest.mark.parametrize("argument", ["num_classes", "in_chans"])
@pytest.mark.parametrize("value", [-1, 2.0, "7", True])
def test_counts_must_be_integers(argument, value):
    with pytest.raises(ValueError, match=f"{argument}={value!r} must be an integer of at least"):
        build_network("hardnet39ds", **{argument: value})


def test_counts_of_nothing():
    assert on_meta("hardnet39ds", num_classes=0).num_classes == 0
    with pytest.raises(ValueError, match=r"num_classes=0 .* at least 1"):
        build_network("ssd512_hardnet68", num_classes=0)
    with pytest.raises(ValueError, match=r"in_chans=0 .* at least 1"):
        build_network("hardnet39ds", in_chans=0)


def test_out_indices_require_features_only():
    with pytest.raises(ValueError, match="features_only"):
        build_network("hardnet39ds", out_indices=(1, 2))


def test_every_detector_is_a_whole_record():
    for row in ARCHS.values():
        if isinstance(row, SSDArch):
            levels = 2 + len(row.extras)
            assert len(row.priors.ratios) == len(row.priors.strides) == levels
            assert len(row.priors.sizes) == levels + 1
            assert list(row.priors.sizes) == sorted(row.priors.sizes)


@pytest.mark.parametrize("name", ["hardnet68", "fchardnet70", "ssd512_hardnet68"])
def test_records_of_earlier_versions_have_the_defaults_of_new_fields(name):
    """Weights and exported files hold records; those written before a field was added still load."""
    new = {"stem_stride", "first_step", "same_padding", "keep_input", "up", "align_corners", "fields", "norm"}

    def older(value):
        if isinstance(value, dict):
            return {key: older(each) for key, each in value.items() if key not in new}
        return [older(each) for each in value] if isinstance(value, list | tuple) else value

    record = arch_to_dict(ARCHS[name])
    assert older(record) != record
    assert arch_from_dict(older(record)) == ARCHS[name]


@pytest.mark.parametrize("value", [{"kind": [1]}, {"kind": {}}, {"kind": None}, {}, [], None, "HarDNetArch"])
def test_what_is_no_row(value):
    with pytest.raises(ValueError, match="not a row of the architecture table"):
        arch_from_dict(value)


def test_layers_wider_than_any():
    arch = dataclasses.replace(ARCHS["hardnet68"], growth_mul=1e7)
    with pytest.raises(ValueError, match=r"would have 1\.4e\+08 channels, .*: growth=14, growth_mul=1e\+07"):
        build_network("hardnet68", arch=arch)


@pytest.mark.parametrize("change", [{"stem": None}, {"nonsense": 1}])
def test_records_that_lack_more_or_hold_more_are_refused(change):
    record = arch_to_dict(ARCHS["hardnet68"]) | change
    if change == {"stem": None}:
        del record["stem"]
    with pytest.raises(ValueError, match="HarDNetArch is"):
        arch_from_dict(record)
