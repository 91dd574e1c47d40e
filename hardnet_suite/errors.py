"""The exceptions for errors that users can fix themselves."""

from __future__ import annotations


class UserError(RuntimeError):
    """An error that the user can fix; the message is one line that says what is wrong, where, and the fix.

    The command line prints the message only (with ``--debug`` also the traceback) and exits with status 2.
    """


class WriteError(OSError):
    """A file that cannot be written, with the system's reason.

    Attributes:
        filename: the file; None where its name would tell nothing.
        size: of the content in bytes, where it is known.
    """

    def __init__(self, number: int | None, reason: str, path: str | None, *, size: int | None = None):
        super().__init__(number, reason, path)
        self.size = size
