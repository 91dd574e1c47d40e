"""Data sets, transforms and samplers, registered with mmengine."""
