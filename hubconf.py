"""torch.hub's entry points: ``torch.hub.load(repo_or_dir, "hardnet68", pretrained=True)``."""

from __future__ import annotations

from hardnet_suite import create_model as _create_model
from hardnet_suite import list_models as _list_models

dependencies = ["torch", "safetensors", "numpy", "tqdm"]


def _entry(name: str):
    def build(pretrained=False, **options):
        return _create_model(name, pretrained=pretrained, **options)

    build.__name__ = name
    build.__doc__ = (
        f"Builds {name}.\n\nArgs:\n    pretrained: False, True (the published weights), a tag of the weights "
        "registry, or a path.\n    **options: see hardnet_suite.create_model, for example num_classes."
    )
    return build


globals().update({name: _entry(name) for name in _list_models()})
