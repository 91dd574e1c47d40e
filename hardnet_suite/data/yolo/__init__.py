"""YOLO data sets: a YAML file of splits and names, and a text file of boxes for each image."""

from hardnet_suite.data.yolo.reader import find_yaml, has_label_files, read_yolo

__all__ = ["find_yaml", "has_label_files", "read_yolo"]
