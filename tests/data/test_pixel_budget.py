"""Threads together hold no more pixels than the limit, unless one image alone has more."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from imggen.data.pixel_budget import PixelBudget


def test_the_limit_holds_for_all_threads_together() -> None:
    budget, held, seen, lock = PixelBudget(10), [0], [0], threading.Lock()

    def use(pixels: int) -> None:
        with budget.holding() as hold:
            hold(pixels + 1)
            hold(pixels)  # replaces the first
            with lock:
                held[0] += pixels
                seen.append(held[0])
            time.sleep(0.001)
            with lock:
                held[0] -= pixels

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, [3, 4, 5, 6, 2, 1, 9] * 5))
        assert 6 <= max(seen) <= 10
        list(threads.map(use, [25, 1, 25]))
    assert max(seen) in (25, 26) or max(seen) <= 26
    with budget.holding() as hold:
        hold(100)  # nothing was left held


def test_an_interrupted_wait_gives_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = PixelBudget(10)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with budget.holding() as hold:
        hold(4)
        with pytest.raises(KeyboardInterrupt), budget.holding() as hold_more:
            hold_more(3)
            monkeypatch.setattr(budget._changed, "wait_for", interrupt)
            hold_more(5)
        assert budget._used == 4
