"""The processes that torchrun starts, and what they tell each other."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from typing import Any

import torch

from hardnet_suite.failures import cannot_meet

_POLL = 0.02  # seconds
_MEETING = timedelta(minutes=5)
_LARGEST = 4 << 20  # bytes of a value: the store ends the connection at 8 MiB


class Ranks:
    """One of the processes that torchrun started for a prediction.

    They talk through torchrun's own store: a signal ends whoever waits, and no process group is needed.

    Attributes:
        rank: the number of this process, from 0.
        size: how many there are.

    Raises:
        UserError: the processes cannot reach each other.
    """

    def __init__(self) -> None:
        try:
            meeting = torch.distributed.rendezvous("env://", timeout=_MEETING)
            self._store, self.rank, self.size = next(iter(meeting))
        except (torch.distributed.DistError, ValueError) as error:
            raise cannot_meet(error) from error

    def tell(self, key: str, value: Any) -> None:
        """Tells all processes a value that JSON can hold."""
        text = json.dumps(value).encode()
        parts = range(0, len(text), _LARGEST)
        for number, start in enumerate(parts):
            self._store.set(f"{key}/{number}", text[start : start + _LARGEST])
        self._store.set(key, str(len(parts)))

    def hear(self, key: str) -> Any:
        """The value that another process tells; waits for it."""
        while not self._store.check([key]):
            time.sleep(_POLL)
        count = int(self._store.get(key))
        return json.loads(b"".join(self._store.get(f"{key}/{number}") for number in range(count)))

    def device(self) -> str | None:
        """The GPU of this process; None where there is none."""
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return f"cuda:{int(os.environ.get('LOCAL_RANK', self.rank)) % count}" if count else None
