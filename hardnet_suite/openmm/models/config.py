"""The architecture that a config names: once at the top, ``arch``, and as ``model.arch`` for mmengine.

mmengine evaluates a base config before the one that derives from it, so a derived config that changes only
``arch`` leaves the base's ``model.arch``. :func:`settle_arch` makes them agree. OpenMMLab's own tools read
``model.arch`` alone; their runners refuse a config in which the two differ (:func:`require_settled`).
"""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from hardnet_suite.config_names import base_files
from hardnet_suite.errors import UserError
from hardnet_suite.networks import (
    ARCHS,
    Arch,
    CenterNetArch,
    DescriptorArch,
    HarDNetArch,
    SegmentationArch,
    SSDArch,
    list_models,
)
from hardnet_suite.openmm.config_files import read_config
from hardnet_suite.openmm.data.parts import kind_of, walk

MODEL_KINDS = {
    "HarDNetSSD": SSDArch,
    "HarDNetCenterNet": CenterNetArch,
    "HarDNetSegmentor": SegmentationArch,
    "ImageClassifier": HarDNetArch,
    "PatchDescriptorModel": DescriptorArch,
}
Names = tuple[str | None, str | None]  # arch, model.arch


def settle_arch(cfg: Config, *, before: str | None = None) -> None:
    """Makes ``cfg.arch`` and ``cfg.model.arch`` agree.

    In a config of another program's model, ``arch`` is a variable like any other; if it names one of the
    suite's, it is removed, as that is not what the model is.

    Of the two, the one that the derived config changed counts. An SSD's square ``Resize`` steps and ``size``
    follow to the new row's size.

    Args:
        cfg: as read from a file, or a settled one after options were merged into it.
        before: the architecture before those options.

    Raises:
        UserError: an unknown name, another task's, or two names of which neither is the newer one.
    """
    kind = _arch_type(cfg)
    if kind is None:
        if is_others(cfg) and cfg.get("arch") in ARCHS:
            cfg._cfg_dict.pop("arch", None)
        return
    top, inner = names = _arch_names(cfg)
    if top == inner or None in names:
        arch = top or inner
    elif before is not None:
        arch = _newer(names, (before, before), cfg.filename)
    elif cfg.filename is None:
        arch = _newer(names, names, "config")
    else:
        arch = _settled_in_file(Path(cfg.filename))
    if arch is None:
        return  # old configs name it in the model's parts; the model asks for it
    if arch not in ARCHS:
        raise UserError(f"{cfg.filename}: arch={arch!r} is unknown; known: {', '.join(list_models())}")
    if not isinstance(ARCHS[arch], kind):
        raise UserError(
            f"{cfg.filename}: arch={arch!r} does not fit {cfg.model.type}, which takes "
            f"{', '.join(name for name in list_models() if isinstance(ARCHS[name], kind))}"
        )
    for former in {*names, before} - {arch, None}:
        _follow_size(cfg, former, arch)
    cfg.arch = cfg.model.arch = arch


def is_others(cfg: Config) -> bool:
    """Whether the config's model is another program's, which takes no ``arch`` of this suite."""
    model = cfg.get("model") or {}
    return "type" in model and _arch_type(cfg) is None and "arch" not in model.get("module", model)


def _arch_type(cfg: Config) -> type[Arch] | None:
    """The rows of the architecture table that the config's model takes; None for another program's model."""
    model = cfg.get("model") or {}
    return MODEL_KINDS.get(kind_of(model)) if "type" in model else None


def require_settled(cfg: Config) -> None:
    """Refuses a config of which only ``arch`` was changed, where nothing settles it.

    Raises:
        UserError: ``arch`` and ``model.arch`` differ.
    """
    top, inner = names = _arch_names(cfg)
    if _arch_type(cfg) is not None and None not in names and top != inner:
        raise UserError(
            f"{cfg.filename}: arch={top!r}, but OpenMMLab's own tools built the model from "
            f"model.arch={inner!r}: set model=dict(arch={top!r})"
        )


def _arch_names(cfg: Config) -> Names:
    return cfg.get("arch"), (cfg.get("model") or {}).get("arch")


def _newer(names: Names, base: Names, filename: str | Path) -> str:
    """The one of two different names that differs from the base's."""
    changed = {name for name, former in zip(names, base, strict=True) if name != former}
    if len(changed) != 1:
        raise UserError(f"{filename}: arch={names[0]!r}, but model.arch={names[1]!r}; keep one of them")
    return changed.pop()


def _settled_in_file(path: Path) -> str | None:
    cfg = read_config(path, import_custom_modules=False)
    top, inner = names = _arch_names(cfg)
    if top == inner or None in names:
        return top or inner
    base_names: Names = (None, None)
    for file in base_files(path):
        own = _arch_names(read_config(file, import_custom_modules=False))
        if own == names:  # the base disagrees already
            return _settled_in_file(file)
        base_names = tuple(new or former for new, former in zip(own, base_names, strict=True))
    return _newer(names, base_names, path)


def _follow_size(cfg: Config, former: str, arch: str) -> None:
    rows = [ARCHS.get(name) for name in (former, arch)]
    if not all(isinstance(row, SSDArch) for row in rows):
        return
    old, new = (row.size for row in rows)

    def follow(node: dict) -> None:
        if "type" in node and kind_of(node) == "Resize" and tuple(node.get("scale") or ()) == (old, old):
            node["scale"] = (new, new)

    walk(cfg._cfg_dict, follow)
    if cfg.get("size") == old:
        cfg.size = new
