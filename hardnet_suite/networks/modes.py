"""Eval mode for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_lock = threading.Lock()
_modes: dict[nn.Module, bool] = {}  # of every module in use, its own mode
_uses: dict[nn.Module, int] = {}  # how many ``eval_mode`` hold it in eval mode


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Within, a network is in eval mode; afterwards each module has its own mode again.

    A module may be frozen in another mode than the whole. Threads may use one network, or networks with
    modules in common, at once: a module leaves eval mode when the last of them has left.

    Args:
        network: its ``train`` is not called.
    """
    modules = list(network.modules())
    with _lock:
        # all are read before any is set, as a wrapper's mode may be that of another module
        _modes.update([(module, module.training) for module in modules if module not in _uses])
        for module in modules:
            _uses[module] = _uses.get(module, 0) + 1
            module.training = False
    try:
        yield
    finally:
        with _lock:
            for module in modules:
                _uses[module] -= 1
                if not _uses[module]:
                    del _uses[module]
                    module.training = _modes.pop(module)
