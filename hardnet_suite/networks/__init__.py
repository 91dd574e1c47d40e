"""The networks. They depend on torch only."""

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
    MSEGArch,
    Priors,
    SegmentationArch,
    SSDArch,
    Stage,
)
from hardnet_suite.networks.centernet import CenterNet
from hardnet_suite.networks.descriptor import PatchDescriptor
from hardnet_suite.networks.factory import (
    build_network,
    default_usage,
    feature_channels,
    find_arch,
    list_models,
    trunk_arch,
)
from hardnet_suite.networks.fchardnet import FCHarDNet
from hardnet_suite.networks.hardblock import HarDBlock, harmonic_links, layer_width
from hardnet_suite.networks.hardnet import HarDNetClassifier, HarDNetTrunk
from hardnet_suite.networks.modes import eval_mode
from hardnet_suite.networks.mseg import MSEG
from hardnet_suite.networks.postprocess import (
    POSTPROCESS,
    ClassificationPostprocess,
    DetectionPostprocess,
    Postprocess,
    SegmentationPostprocess,
    default_postprocess,
)
from hardnet_suite.networks.preprocess import PREPROCESS, Pad, Preprocess
from hardnet_suite.networks.profile import convolutional_io, count_parameters, multiply_adds
from hardnet_suite.networks.ssd import SSD, official_order, prior_boxes
from hardnet_suite.networks.usage import Palette, Usage

__all__ = [
    "ARCHS",
    "MSEG",
    "POSTPROCESS",
    "PREPROCESS",
    "SSD",
    "Arch",
    "Bridge",
    "CenterNet",
    "CenterNetArch",
    "CenterNetStep",
    "ClassificationPostprocess",
    "DescriptorArch",
    "DetectionPostprocess",
    "Extra",
    "FCHarDNet",
    "FCHarDNetArch",
    "HarDBlock",
    "HarDNetArch",
    "HarDNetClassifier",
    "HarDNetTrunk",
    "MSEGArch",
    "Pad",
    "Palette",
    "PatchDescriptor",
    "Postprocess",
    "Preprocess",
    "Priors",
    "SSDArch",
    "SegmentationArch",
    "SegmentationPostprocess",
    "Stage",
    "Usage",
    "build_network",
    "convolutional_io",
    "count_parameters",
    "default_postprocess",
    "default_usage",
    "eval_mode",
    "feature_channels",
    "find_arch",
    "harmonic_links",
    "layer_width",
    "list_models",
    "multiply_adds",
    "official_order",
    "prior_boxes",
    "trunk_arch",
]
