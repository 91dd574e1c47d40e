"""The exception for errors that users can fix themselves."""

from __future__ import annotations


class UserError(RuntimeError):
    """An error that the user can fix; the message is one line that says what is wrong, where, and the fix.

    The command line prints the message only (with ``--debug`` also the traceback) and exits with status 2.
    """
