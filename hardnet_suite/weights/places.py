"""Where weights lie on this machine. Needs no torch, so that ``hardnet-suite models`` starts at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hardnet_suite.errors import UserError
from hardnet_suite.weights.registry import ROWS, WeightsRow

SHIPPED = Path(__file__).parent / "shipped"


def cache_dir() -> Path:
    """The folder of downloaded weights, shared with torch.hub (``$TORCH_HOME/hub/checkpoints``)."""
    if "torch" in sys.modules:
        from torch import hub

        return Path(hub.get_dir()) / "checkpoints"
    # as torch.hub.get_dir, which can answer otherwise only after torch.hub.set_dir
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
    return Path(os.path.expanduser(home), "hub", "checkpoints")


def own_folder() -> Path | None:
    """The folder that ``$HARDNET_WEIGHTS_DIR`` names, if it is set.

    Raises:
        UserError: there is no such folder.
    """
    folder = os.environ.get("HARDNET_WEIGHTS_DIR")
    if not folder:
        return None
    path = Path(os.path.expanduser(folder))  # as it stands where there is no such home
    if not path.is_dir():
        kind = "not a folder" if os.path.lexists(path) else "no such folder"
        raise UserError(f"HARDNET_WEIGHTS_DIR={folder}: {kind}")
    return path


def row_of(path: str | Path) -> WeightsRow | None:
    """The row whose weights a file is, judged by its place and name; None for any other file."""
    path = Path(path).absolute()
    folders = [folder.absolute() for folder in (own_folder(), cache_dir()) if folder]
    for row in ROWS:
        if row.shipped and path == (SHIPPED / row.shipped).absolute():
            return row
        if path.parent in folders and path.name in [address.file for address in row.urls]:
            return row
    return None


def where(row: WeightsRow) -> str:
    """Where the weights of a row are, judged by file names: "in the package", a path, or "to download"."""
    if row.shipped:
        return "in the package"
    folder = own_folder()
    candidates = [folder / address.file for address in row.urls] if folder else []
    candidates += [cache_dir() / address.file for address in row.urls]
    return next((str(path) for path in candidates if path.is_file()), "to download")
