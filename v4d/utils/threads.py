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
    weight = _Weight()
    pending: deque[Future[Out]] = deque()

    def work(item: In) -> Out:
        try:
            result = function(item)
            weight.add(size(result))
            return result
        finally:
            places.release()

    def head() -> Out:
        result = pending.popleft().result()
        weight.add(-size(result))
        return result

    pool = ThreadPoolExecutor(threads)
    try:
        source = iter(items)
        while True:
            while pending and (pending[0].done() or weight.total > held):
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


class _Weight:
    def __init__(self) -> None:
        self.total = 0
        self._lock = threading.Lock()

    def add(self, amount: int) -> None:
        with self._lock:
            self.total += amount
