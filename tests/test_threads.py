"""The number of threads of PyTorch, of one thread of Python alone."""

from __future__ import annotations

import threading

import pytest
import torch

from hardnet_suite.prediction.workers import map_ahead
from hardnet_suite.threads import own_threads, set_own_threads


@pytest.fixture(autouse=True)
def process_with_three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def in_new_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_other_threads_keep_their_number(count):
    def set_and_look():
        set_own_threads(count)
        return torch.get_num_threads(), in_new_thread(torch.get_num_threads)

    assert in_new_thread(set_and_look) == (count, 3)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("count", [None, 1, 3, 4])
def test_within_a_context(count):
    def fail():
        with own_threads(count):
            assert torch.get_num_threads() == (count or 3)
            assert in_new_thread(torch.get_num_threads) == 3
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == 3


def test_many_at_once():
    """Threads that set numbers of their own at the same time neither see nor leave behind each other's."""
    seen: dict[int, list[int]] = {count: [] for count in range(1, 9)}

    def work(count):
        for _ in range(20):
            with own_threads(count):
                seen[count].append(torch.get_num_threads())
        seen[count].append(torch.get_num_threads())

    threads = [threading.Thread(target=work, args=(count,)) for count in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {count: [count] * 20 + [3] for count in seen}
    assert in_new_thread(torch.get_num_threads) == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_of_predict_compute_in_one_thread(workers):
    """Beside the threads of the network; more than one each would oversubscribe the cores."""
    numbers = map_ahead(lambda _: torch.get_num_threads(), range(4), workers=workers, ahead=3)
    assert [future.result() for _, future in numbers] == [1] * 4
    assert torch.get_num_threads() == in_new_thread(torch.get_num_threads) == 3
