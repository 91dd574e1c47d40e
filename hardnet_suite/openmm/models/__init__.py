"""Models and their parts, registered with mmengine."""
