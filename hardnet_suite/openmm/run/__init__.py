"""Configs, loops, hooks and metrics: what trains and scores a model."""
