"""Work in threads ahead of the one that uses it."""

import threading
import time
from concurrent.futures import Future

import pytest
import torch

from atp.data.passes import ahead, threads
from atp.errors import InputError


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order(workers: int) -> None:
    def work(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        return number**2

    with threads(workers) as pool:
        assert list(ahead(pool, work, range(20), 4)) == [number**2 for number in range(20)]


@pytest.mark.parametrize(("workers", "bound"), [(3, 6), (0, 1)])
def test_few_images_are_in_memory_at_a_time(workers: int, bound: int) -> None:
    """However slow the consumer is, and however fast the threads are."""
    lock, begun, held, most = threading.Lock(), 0, 0, 0

    def work(number: int) -> int:
        nonlocal begun, most
        with lock:
            begun += 1
            most = max(most, begun - held)
        return number

    with threads(workers) as pool:
        for number, made in enumerate(ahead(pool, work, range(50), 4)):
            assert made == number
            with lock:
                held += 1
    assert most <= bound


def test_work_goes_on_while_its_user_is_busy() -> None:
    """A user that never waits for the second item, which is begun nevertheless."""
    second = threading.Event()
    with threads(1) as pool:
        results = ahead(pool, lambda number: second.set() if number == 2 else None, [1, 2, 3], 1)
        next(results)
        assert second.wait(10)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_here_in_the_place_of_its_item(workers: int) -> None:
    def work(number: int) -> int:
        if number == 3:
            raise InputError("three")
        return number

    with threads(workers) as pool:
        results = ahead(pool, work, range(100), 8)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(InputError, match="three"):
            next(results)


def test_after_an_error_nothing_new_begins() -> None:
    begun, hold = list[int](), threading.Event()
    futures: list[Future[None]] = []

    def work(number: int) -> None:
        begun.append(number)
        hold.wait(10)

    def fail() -> None:
        with threads(1) as pool:
            assert pool is not None
            futures.extend(pool.submit(work, number) for number in range(50))
            while not begun:
                time.sleep(0.001)
            threading.Timer(0.05, hold.set).start()
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert len(begun) < 50
    assert futures[-1].cancelled()


def test_threads_compute_on_one_core_each_and_the_caller_as_before() -> None:
    before = torch.get_num_threads()
    with threads(2) as pool:
        assert list(ahead(pool, lambda number: torch.get_num_threads(), range(4), 4)) == [1] * 4
        assert torch.get_num_threads() == before
