"""Targets for damaged input, and the command that tries many of them.

    python -m tests.faults.hostile                          # lists the targets
    python -m tests.faults.hostile images --count 100000    # all targets of tests/faults/hostile_images.py
    python -m tests.faults.hostile images.info --count 1000
    python -m tests.faults.hostile images.info --count 1000 --start 400    # goes on with input 400

Ctrl-C and SIGTERM stop it: it prints the sum so far, and from which input to go on.

A module `tests/faults/hostile_NAME.py` has a dictionary TARGETS. Each target runs in a child process; a child that
hangs, crashes or takes too much memory is a fault of the input that it was at, and a new one goes on behind it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tests.faults.mutate import mutation

SECONDS_PER_INPUT = 5
# A child that prints nothing for so long hangs if it used no CPU time meanwhile, or much of it: other processes may
# leave it little.
HANG_SECONDS, HANG_CPU_SECONDS = 60, 4 * SECONDS_PER_INPUT
PROGRESS_INPUTS = 2000
MAX_ADDRESS_BYTES = 12 << 30
MAX_RSS_BYTES = 1_500_000_000
RANDOM_SEED = 19
FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent


@dataclass(frozen=True)
class Target:
    """Code that reads files from anywhere.

    `seeds` makes valid files, small ones. `run` reads one damaged file: it returns False if the file was refused, as
    it should be, True or None if it was accepted, and raises only on a fault. `repair` makes checksums right; it is
    applied to every second input. `max_rss` bounds the memory of the whole process, in bytes.
    """

    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes], bool | None]
    repair: Callable[[bytes], bytes] | None = None
    max_rss: int = MAX_RSS_BYTES


class TooSlowError(BaseException):
    """An input took more than SECONDS_PER_INPUT of CPU time. No `except Exception` catches it."""


def find_targets(names: list[str]) -> dict[str, Target]:
    """The targets of the given names, MODULE or MODULE.TARGET; all of them for no names."""
    found: dict[str, Target] = {}
    for path in sorted(FOLDER.glob("hostile_*.py")):
        module = path.stem.removeprefix("hostile_")
        if names and not any(name.split(".")[0] == module for name in names):
            continue
        targets = importlib.import_module(f"tests.faults.{path.stem}").TARGETS
        found |= {f"{module}.{name}": target for name, target in targets.items()}
    chosen = {key: each for key, each in found.items() if not names or key in names or key.split(".")[0] in names}
    if not chosen:
        raise SystemExit(f"there is no target {' '.join(names)}; there are: {' '.join(found) or 'none'}")
    return chosen


def make_input(target: Target, seeds: list[bytes], index: int, random_seed: int = RANDOM_SEED) -> bytes:
    """Input number `index`: the seeds take turns, and every second round of them is repaired."""
    data = mutation(seeds[index % len(seeds)], random_seed, index)
    is_repaired = target.repair is not None and index // len(seeds) % 2 == 0
    return target.repair(data) if is_repaired and target.repair else data


def check(target: Target, count: int, random_seed: int = RANDOM_SEED) -> int:
    """Run `count` inputs in this process; returns how many were accepted. Raises AssertionError for the first fault."""
    seeds, accepted = target.seeds(), 0
    for seed in seeds:
        assert target.run(seed) is not False, "a valid file was refused"
    for index in range(count):
        began = time.process_time()
        try:
            accepted += target.run(make_input(target, seeds, index, random_seed)) is not False
        except Exception as error:
            raise AssertionError(f"input {index}: {type(error).__name__}: {error}") from error
        assert time.process_time() - began < SECONDS_PER_INPUT, f"input {index} is slow"
    return accepted


def _stop_slow_input(number: int, frame: FrameType | None) -> None:
    raise TooSlowError


def _run_child(name: str, start: int, count: int, random_seed: int, position: int) -> None:
    """Try inputs start..count, and print a line of JSON every second and for each fault.

    The number of the current input stands in the open file `position`, for the case that this process ends abruptly.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error")  # a warning would reach the user's terminal
    signal.signal(signal.SIGPROF, _stop_slow_input)
    (target,) = find_targets([name]).values()
    seeds = target.seeds()
    results, worst, last = os.dup(1), 0.0, time.monotonic()
    # What the target prints does not mix with the results, and libraries in C complain of every damaged file.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    tally = {"accepted": 0, "refused": 0}

    def report(index: int, **more: Any) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        line = {"next": index + 1, "worst": worst, "peak": peak, **tally, **more}
        os.write(results, json.dumps(line).encode() + b"\n")
        tally.update(accepted=0, refused=0)

    for index in range(start, count):
        os.pwrite(position, index.to_bytes(8, "big"), 0)
        began, fault = time.process_time(), ""
        try:
            data = make_input(target, seeds, index, random_seed)
            signal.setitimer(signal.ITIMER_PROF, SECONDS_PER_INPUT)
            try:
                tally["refused" if target.run(data) is False else "accepted"] += 1
            finally:  # the timer may go off in here, too
                signal.setitimer(signal.ITIMER_PROF, 0)
        except TooSlowError:
            fault = "too slow\n" + traceback.format_exc(limit=-6)
        except Exception:
            fault = traceback.format_exc(limit=-6)
        worst = max(worst, time.process_time() - began)
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > target.max_rss:
            report(index, fault=fault or "too much memory")
            return  # the peak of a process never falls again
        if fault or index + 1 == count or time.monotonic() - last > 1:
            last = time.monotonic()
            report(index, **({"fault": fault} if fault else {}))


@dataclass
class Score:
    """What became of inputs `start` to `following` of a target; `faults` has the numbers of those that went wrong."""

    start: int
    following: int
    stopped: bool = False
    accepted: int = 0
    refused: int = 0
    worst: float = 0.0
    peak: int = 0
    faults: dict[int, str] = field(default_factory=dict)

    def add(self, line: dict[str, Any]) -> None:
        """Add a line of a child."""
        self.accepted, self.refused = self.accepted + line["accepted"], self.refused + line["refused"]
        self.worst, self.peak = max(self.worst, line["worst"]), max(self.peak, line["peak"])
        self.following = line["next"]
        if "fault" in line:
            self.faults[self.following - 1] = line["fault"]

    def row(self, name: str) -> str:
        """A line of the table."""
        numbers = f"{self.following - self.start:8} {self.accepted:8} {self.refused:8} {len(self.faults):6}"
        return f"{name:28} {numbers} {self.worst:8.2f} {self.peak / 1e6:8.0f}"


def _cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _lines_of(child: subprocess.Popen[str]) -> Generator[dict[str, Any], None, None]:
    """The reports of a child, until it ends or hangs; then it is killed."""
    assert child.stdout is not None
    at_line = before = 0.0
    try:
        while True:
            is_silent = not select.select([child.stdout], [], [], HANG_SECONDS)[0]
            used = _cpu_seconds(child.pid)
            if is_silent:
                if used == before or used - at_line > HANG_CPU_SECONDS:
                    break
                before = used
                continue
            line = child.stdout.readline()
            if not line:
                break
            at_line = before = used
            yield json.loads(line)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def _try_in_child(name: str, count: int, random_seed: int, score: Score) -> None:
    """Run inputs `score.following` to `count` in a child, or those up to one that ends it."""
    began_at, position = score.following, os.memfd_create("position")
    numbers = {"--child": began_at, "--count": count, "--seed": random_seed, "--position": position}
    words = [str(word) for pair in numbers.items() for word in pair]
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.hostile", name, *words],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        pass_fds=[position],
        process_group=0,  # Ctrl-C is for this process alone
    )
    shown = began_at // PROGRESS_INPUTS
    with contextlib.closing(_lines_of(child)) as lines:
        for line in lines:
            score.add(line)
            if score.following // PROGRESS_INPUTS > shown and score.following < count:
                shown = score.following // PROGRESS_INPUTS
                print(f"{name:28} at input {score.following:,}, {len(score.faults)} faults", flush=True)
    at_input = os.pread(position, 8, 0)
    if score.following < count and child.returncode and at_input:
        index = int.from_bytes(at_input, "big")
        score.faults[index] = f"the process ended with {child.returncode}"
        score.following = index + 1
    elif score.following == began_at:
        raise SystemExit(f"{name}: the child ended before its first input")
    os.close(position)


def try_target(name: str, count: int, random_seed: int = RANDOM_SEED, start: int = 0) -> Score:
    """Run inputs `start` to `count` of a target in child processes; Ctrl-C ends it early."""
    score = Score(start, start)
    try:
        while score.following < count:
            _try_in_child(name, count, random_seed, score)
    except KeyboardInterrupt:
        score.stopped = True
    return score


def main() -> int:
    """Try the targets that the command line names, and print a table; returns 1 if there were faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.hostile")
    parser.add_argument("names", nargs="*", help="MODULE or MODULE.TARGET")
    parser.add_argument("--count", type=int, default=0, help="inputs a target; 0 lists the targets")
    parser.add_argument("--start", type=int, default=0, help="the input to begin with")
    parser.add_argument("--seed", type=int, default=RANDOM_SEED)
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that are faults")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--position", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        _run_child(given.names[0], given.child, given.count, given.seed, given.position)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    targets = find_targets(given.names)
    if not given.count:
        print("\n".join(targets))
        return 0
    print(f"{'target':28} {'inputs':>8} {'accepted':>8} {'refused':>8} {'faults':>6} {'worst s':>8} {'peak MB':>8}")
    sys.stdout.flush()
    failed = False
    for name, target in targets.items():
        score = try_target(name, given.count, given.seed, given.start)
        print(score.row(name), flush=True)
        failed |= bool(score.faults)
        kinds: dict[str, int] = {}
        for index, text in score.faults.items():
            kinds.setdefault(text, index)
        for text, index in list(kinds.items())[:10]:
            print(f"  input {index}: {text.rstrip()}".replace("\n", "\n    "), flush=True)
        if given.keep is not None and score.faults:
            given.keep.mkdir(parents=True, exist_ok=True)
            seeds = target.seeds()
            for index in score.faults:
                (given.keep / f"{name}-{index}").write_bytes(make_input(target, seeds, index, given.seed))
        if score.stopped:
            print(f"stopped: go on with {name} --start {score.following}", flush=True)
            return 130
    return failed


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
