"""Warnings and messages are kept quiet by several threads at once, and come back."""

from __future__ import annotations

import logging
import threading
import warnings

import pytest

from hardnet_suite.quiet import without_log, without_messages, without_warnings


@pytest.mark.parametrize("silence", [without_warnings, without_log, without_messages])
@pytest.mark.parametrize("order", ["first in, first out", "first in, last out"])
def test_overlapping_threads_restore_what_was_there(silence, order):
    filters = list(warnings.filters)
    inside = [threading.Event(), threading.Event()]
    leave = [threading.Event(), threading.Event()]

    def hold(number):
        with silence():
            inside[number].set()
            assert leave[number].wait(10)

    threads = [threading.Thread(target=hold, args=(number,)) for number in (0, 1)]
    for number, thread in enumerate(threads):
        thread.start()
        assert inside[number].wait(10)
    assert (warnings.filters[0] == ("ignore", None, Warning, None, 0)) == (silence is not without_log)
    for number in (0, 1) if order == "first in, first out" else (1, 0):
        assert logging.root.manager.disable == (0 if silence is without_warnings else logging.WARNING)
        leave[number].set()
        threads[number].join()
    assert list(warnings.filters) == filters
    assert logging.root.manager.disable == logging.NOTSET
    with pytest.warns(UserWarning, match="shown again"):
        warnings.warn("shown again", stacklevel=1)


def test_an_error_within_restores_too():
    filters = list(warnings.filters)
    with pytest.raises(ValueError, match="x"), without_messages(), without_warnings():
        raise ValueError("x")
    assert list(warnings.filters) == filters
    assert logging.root.manager.disable == logging.NOTSET
