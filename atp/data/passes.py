"""Work on images in threads, ahead of the one that uses it: reading before the network, and writing behind it.

Threads, since decoding, resizing, compressing, numpy and PyTorch release the interpreter's lock, nothing needs to be
pickled, and a killed process leaves none behind.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Given = TypeVar("Given")
Made = TypeVar("Made")


@contextmanager
def threads(count: int) -> Iterator[Executor | None]:
    """Threads for ``ahead``, each of which computes on one core; None for 0.

    If the body fails, work that has not begun is dropped.
    """
    if not count:
        yield None
        return
    # In PyTorch, the number applies to the calling thread.
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(pool: Executor | None, work: Callable[[Given], Made], items: Iterable[Given], most: int) -> Iterator[Made]:
    """Yield ``work`` of each item in order, computed in the pool for up to ``most`` items ahead.

    Without a pool, it is computed here, one item at a time. An error is raised here, in the place of its item.
    """
    if pool is None:
        yield from map(work, items)
        return
    waiting: deque[Future[Made]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
