"""The one exception that a person is meant to read."""

from __future__ import annotations


class UserError(RuntimeError):
    """Something the user can put right: one clear line saying what, where and what to do.

    The command line prints only the message (a traceback with ``--debug``) and exits with status 2.
    """
