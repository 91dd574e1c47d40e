"""Nearest neighbours among descriptors, under the name of this room."""

from hardnet_suite.inference.nearest import mutual_matches, nearest_neighbours

__all__ = ["mutual_matches", "nearest_neighbours"]
