"""A pool of threads whose results come in the order of its inputs, within bounded memory."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def ordered_results(
    function: Callable[[In], Out],
    items: Iterable[In],
    *,
    threads: int,
    size: Callable[[Out], int],
    held: int,
) -> Generator[Out, None, None]:
    """Yield `function(item)` for each item, in order, computed by `threads` threads.

    At most `threads` + 1 items are read ahead. Results that wait behind a slow one (a video at its
    deadline, say) are kept until they add up to `held`; so one straggler does not idle the others.
    When the consumer stops early or `items` raises, what has not begun is dropped, and the exit waits for
    what has.

    Args:
        size: the weight of a result (bytes).
        held: the weight of finished results that may wait.
    """
    places = threading.Semaphore(threads + 1)
    waiting, one_by_one = 0, threading.Lock()
    pending: deque[Future[Out]] = deque()

    def weigh(amount: int) -> None:
        nonlocal waiting
        with one_by_one:
            waiting += amount

    def work(item: In) -> Out:
        try:
            result = function(item)
            weigh(size(result))
            return result
        finally:
            places.release()

    def head() -> Out:
        result = pending.popleft().result()
        weigh(-size(result))
        return result

    pool = ThreadPoolExecutor(threads)
    try:
        source = iter(items)
        while True:
            while pending and (pending[0].done() or waiting > held):
                yield head()
            places.acquire()  # before reading the next item, which takes memory
            try:
                item = next(source)
            except StopIteration:
                break
            pending.append(pool.submit(work, item))
            del item
        while pending:
            yield head()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Room:
    """So many bytes may be in memory at a time; what is larger than all of it comes alone."""

    def __init__(self, size: int):
        self.size, self._taken = size, 0
        self._changed = threading.Condition()

    def take(self, count: int) -> None:
        """Wait until there is room for so many bytes, and take it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + count <= self.size)
            self._taken += count

    def give_back(self, count: int) -> None:
        """Leave room that was taken."""
        with self._changed:
            self._taken -= count
            self._changed.notify_all()
