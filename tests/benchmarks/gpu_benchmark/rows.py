"""Rows of the table: each has a time limit, and an error in a row is written into it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any

from tests.benchmarks.gpu_benchmark.setting import Setting
from tests.benchmarks.gpu_benchmark.table import Table
from tests.benchmarks.gpu_benchmark.time_limit import Clock, time_limit


class SkippedError(Exception):
    """A row is left out: there is no time left, no GPU, or the row before it failed."""


class Rows:
    """Fills the rows of a table, each within the time that is left."""

    def __init__(self, table: Table, clock: Clock, setting: Setting, seconds_kept_free: float) -> None:
        self.table = table
        self.clock = clock
        self.setting = setting
        self.seconds_kept_free = seconds_kept_free

    def attempt(
        self,
        row: tuple[str, str, str],
        limit: float,
        work: Callable[[], dict[str, Any]],
        *,
        may_use_all_time: bool = False,
    ) -> None:
        """Put the cells that `work` returns, or its error, into a row (part, model, measure).

        Without `may_use_all_time`, the last `seconds_kept_free` of the time are not used.
        """
        left = self.clock.seconds_left()
        if not may_use_all_time:
            left -= self.seconds_kept_free
        start = time.monotonic()
        try:
            if left < (1 if may_use_all_time else 5):
                raise SkippedError("no time left")
            with time_limit(min(limit, left)):
                cells = work()
            cells.setdefault("details", {})["row_seconds"] = round(time.monotonic() - start, 1)
            self.table.put(*row, **cells)
        except SkippedError as error:
            self.table.put(*row, note=f"skipped: {error}")
        except Exception as error:
            self.table.failures += 1
            text = traceback.format_exc()
            print(text, flush=True)
            line = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            self.table.put(*row, note=f"failed: {line[:200]}", details={"error": text})
        finally:
            self.setting.free_memory()
