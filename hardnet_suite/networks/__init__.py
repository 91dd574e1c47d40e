"""The networks, on torch alone."""

from hardnet_suite.networks.arch import (
    ARCHS,
    Arch,
    Bridge,
    CenterNetArch,
    CenterNetStep,
    DescriptorArch,
    Extra,
    FCHarDNetArch,
    HarDNetArch,
    Priors,
    SSDArch,
    Stage,
)
from hardnet_suite.networks.centernet import CenterNet
from hardnet_suite.networks.descriptor import PatchDescriptor
from hardnet_suite.networks.factory import build_network, find_arch, list_models, trunk_arch
from hardnet_suite.networks.fchardnet import FCHarDNet
from hardnet_suite.networks.hardblock import HarDBlock, harmonic_links, layer_width
from hardnet_suite.networks.hardnet import HarDNetClassifier, HarDNetTrunk
from hardnet_suite.networks.preprocess import PREPROCESS, Preprocess
from hardnet_suite.networks.profile import count_parameters, multiply_adds
from hardnet_suite.networks.ssd import SSD, official_order, prior_boxes

__all__ = [
    "ARCHS",
    "PREPROCESS",
    "SSD",
    "Arch",
    "Bridge",
    "CenterNet",
    "CenterNetArch",
    "CenterNetStep",
    "DescriptorArch",
    "Extra",
    "FCHarDNet",
    "FCHarDNetArch",
    "HarDBlock",
    "HarDNetArch",
    "HarDNetClassifier",
    "HarDNetTrunk",
    "PatchDescriptor",
    "Preprocess",
    "Priors",
    "SSDArch",
    "Stage",
    "build_network",
    "count_parameters",
    "find_arch",
    "harmonic_links",
    "layer_width",
    "list_models",
    "multiply_adds",
    "official_order",
    "prior_boxes",
    "trunk_arch",
]
