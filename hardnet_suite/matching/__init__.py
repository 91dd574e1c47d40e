"""The patch descriptor in use: keypoints, patches, nearest neighbours, pairs of images. No mm*."""

from hardnet_suite.matching.export import write_colmap, write_hloc
from hardnet_suite.matching.keynet import KeyNetDetector
from hardnet_suite.matching.keypoints import Features, HardNetDetector, Keypoints
from hardnet_suite.matching.nearest import mutual_matches, nearest_neighbours
from hardnet_suite.matching.pair import Geometry, Matches, estimate_geometry, match_features, match_images
from hardnet_suite.matching.patches import describe, load_descriptor

__all__ = [
    "Features",
    "Geometry",
    "HardNetDetector",
    "KeyNetDetector",
    "Keypoints",
    "Matches",
    "describe",
    "estimate_geometry",
    "load_descriptor",
    "match_features",
    "match_images",
    "mutual_matches",
    "nearest_neighbours",
    "write_colmap",
    "write_hloc",
]
