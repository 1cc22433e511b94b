"""Kill trainings at random moments, resume them, and compare what they end with with an uninterrupted run.

    python -m tests.faults.kill --family gan --kills 50 [--seed 0]

A third of the kills (SIGKILL) come at a random moment after the start, a third shortly after a checkpoint, a third in
the middle of saving one. After each kill the newest checkpoint must be valid, and not older than the one before. Every
ten kills the run is completed, and must equal the uninterrupted run bit for bit. Prints a table; exit code 1 if
anything is wrong. The tests of `test_kill.py` are a short part of this, at chosen moments.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from imggen.errors import ImggenError
from imggen.io.checkpoint import read_header
from tests.cli.forks import Fork, Server
from tests.faults.runs import BATCH, FAMILIES, differences, make_data, problems, read_state, train_words

KILLS_PER_RUN = 10
STEPS = 30
MAX_SECONDS = 1000.0  # for a complete run on a busy machine
KINDS = ("random moment", "after a checkpoint", "while saving")


def saved_images(run: Path) -> int:
    """Images of the newest checkpoint; -1 without one. Raises CheckpointError if it is damaged."""
    if not (run / "state.safetensors").exists():
        return -1
    return int(read_state(run)[1]["images"])


def is_saving(run: Path) -> bool:
    """Whether a checkpoint is being written."""
    try:
        return any(entry.name.endswith(".part") for entry in os.scandir(run))
    except FileNotFoundError:
        return False


class Killer:
    """The kills of one family."""

    def __init__(self, family: str, seed: int) -> None:
        self.family, self.random, self.server = family, random.Random(seed), Server()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def wait(self, process: Fork, run: Path, kind: str) -> None:
        """Until the moment of a kill of this kind, or the end of the process."""
        before, deadline = self._header_images(run), time.monotonic() + 60
        if kind == KINDS[0]:
            time.sleep(self.random.uniform(0, 4))
            return
        if kind == KINDS[1]:
            while process.poll() is None and self._header_images(run) <= before and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(self.random.uniform(0, 0.3))
            return
        while process.poll() is None and not is_saving(run) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(self.random.uniform(0, 0.01))

    def _header_images(self, run: Path) -> int:
        try:
            return int(read_header(run / "state.safetensors").document["images"])
        except ImggenError:
            return -1

    def kill_once(self, words: list[str], run: Path, before: int) -> int | None:
        """Resume the run and kill it; returns the images of the newest checkpoint, None if the run had ended."""
        how = ["--resume"] if before >= 0 else ["--force"]
        kind = self.random.choice(KINDS)
        if kind == KINDS[2] and self.random.random() < 0.5:  # exactly when a complete file is to replace another
            name = self.random.choice(["weights.safetensors", "state.safetensors"])
            process = Fork(self.server, *words, *how, kill_before=name, kill_count=self.random.randint(1, 4))
        else:
            process = Fork(self.server, *words, *how)
            self.wait(process, run, kind)
            process.send_signal(signal.SIGKILL)
        code = process.wait(MAX_SECONDS)
        if code == 0:
            return None
        if code != -signal.SIGKILL:
            self.wrong.append(f"exit code {code}: {process.err}")
            return None
        self.counts["kills"] += 1
        if self.counts["kills"] % 10 == 0:
            print(self.family, dict(self.counts), flush=True)
        self.counts["kills in the middle of saving"] += is_saving(run)
        try:
            images = saved_images(run)
        except ImggenError as error:
            self.wrong.append(f"damaged: {error.message}")
            return None
        self.counts["valid checkpoints"] += images >= 0
        self.counts["before the first checkpoint"] += images < 0
        if images < before:
            self.wrong.append(f"back from {before} to {images} images")
        return images

    def run_with_kills(self, kills: int, number: int) -> None:
        """Kill one run so many times, complete it, and compare it."""
        run, whole = Path(f"run{number}"), Path(f"whole{number}")
        paired = ["--paired"] if self.family == "translate" and number % 2 else []
        words = [*train_words(self.family, str(run), STEPS * BATCH, seed=number), *paired]
        saving = ["--save-minutes", self.random.choice(["0", "0.002", "0.01"])]
        before = -1
        for _ in range(kills):
            images = self.kill_once([*words, *saving], run, before)
            if images is None:  # the end was reached
                break
            before = images
        if Fork(self.server, *words, "--resume").wait(MAX_SECONDS) != 0:
            self.wrong.append("the run cannot be completed")
            return
        uninterrupted = [*train_words(self.family, str(whole), STEPS * BATCH, seed=number), *paired]
        if Fork(self.server, *uninterrupted).wait(MAX_SECONDS) != 0:
            self.wrong.append("the uninterrupted run failed")
            return
        self.counts["runs completed"] += 1
        found = problems(run) + differences(run, whole)
        self.counts["runs equal to an uninterrupted one"] += not found
        self.wrong += [f"run {number}: {problem}" for problem in found]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--family", required=True, choices=FAMILIES)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.monotonic()
    killer = Killer(given.family, given.seed)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_data(given.family)
        number = 0
        while killer.counts["kills"] < given.kills and not killer.wrong:
            killer.run_with_kills(min(KILLS_PER_RUN, given.kills - killer.counts["kills"]), number)
            number += 1
            print(given.family, json.dumps(killer.counts), f"{time.monotonic() - began:.0f} s", flush=True)
        killer.server.stop()
        os.chdir("/")
    names = ("kills", "kills in the middle of saving", "before the first checkpoint", "valid checkpoints")
    for name in (*names, "runs completed", "runs equal to an uninterrupted one"):
        print(f"{given.family:12} {name:36} {killer.counts[name]:4}")
    for problem in killer.wrong:
        print(f"{given.family:12} WRONG: {problem}")
    return 1 if killer.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
