"""A training run as the page shows it: how far it is, its curves and its previews."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from imggen.documents import COUNT, DocumentError, Kind, read_fields, read_json
from imggen.engine.options import ExploreOptions
from imggen.engine.run_dir import PREVIEW_NAME, RunDir
from imggen.errors import CheckpointError
from imggen.io.model_paths import find_weights
from imggen.models import TRAINED
from imggen.reporting import duration

TAIL_BYTES = 1 << 16  # the last lines of the metrics
QUIET_SECONDS = 120.0  # after which a run whose metrics do not grow counts as stopped, if its lines came faster
_NUMBER = Kind("a number of 0 or more", lambda value: type(value) in (int, float) and 0 <= value < 1e15)


@dataclass(frozen=True)
class Progress:
    """The last line of a run's metrics, and the seconds between it and the one before."""

    images: int
    seconds: float
    fraction: float
    interval: float


def find_run(options: ExploreOptions) -> RunDir | None:
    """The run that MODEL names, as all verbs find it, or one that has no model yet; None if it is none."""
    if options.weights is not None:
        return None
    try:
        weights, _ = find_weights(options.model, weights=None, families=TRAINED)
        paths = [weights.parent] if weights.name == "weights.safetensors" else []
    except CheckpointError:  # the run may have saved none yet
        paths = [Path("runs") / options.model, Path(options.model)]
    runs = [RunDir(path.absolute()) for path in paths if path.name != ".."]
    return next((run for run in runs if run.metrics.is_file()), None)


def read_progress(run: RunDir) -> Progress | None:
    """How far a run is, None if it has not reported yet."""
    try:
        with run.metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    found: list[Progress] = []
    for line in lines:
        try:
            record = read_fields(read_json(line), {"images": COUNT, "seconds": _NUMBER, "progress": _NUMBER})
        except DocumentError:
            continue  # half a line, or one that only evaluates
        seconds = float(record["seconds"])
        interval = max(0.0, seconds - found[-1].seconds) if found else seconds
        found.append(Progress(record["images"], seconds, min(1.0, float(record["progress"])), interval))
    return found[-1] if found else None


def describe(run: RunDir) -> str:
    """One line on a run: how far it is, and how long it takes."""
    progress = read_progress(run)
    if progress is None:
        return "The run has not reported yet."
    done = f"{progress.images:,} images in {duration(progress.seconds)}"
    if progress.fraction >= 1:
        return f"Ended: {done}."
    age = time.time() - run.metrics.stat().st_mtime
    if age > max(QUIET_SECONDS, 3 * progress.interval):
        return f"Stopped at {progress.fraction:.0%}: {done}. The same command with --resume continues it."
    if progress.fraction == 0:
        return f"Under way: {done}."
    left = progress.seconds * (1 - progress.fraction) / progress.fraction
    return f"Under way: {progress.fraction:.0%}, {done}; about {duration(left)} left."


def previews(run: RunDir) -> list[Path]:
    """The preview grids in the order in which they were made."""
    if not run.samples.is_dir():
        return []
    paths = [path for path in run.samples.iterdir() if PREVIEW_NAME.fullmatch(path.name) and path.is_file()]
    return sorted(paths, key=lambda path: int(path.stem))


def state_of(run: RunDir) -> tuple[int, int]:
    """Two numbers that change when there is something new to show."""
    try:
        return run.metrics.stat().st_size, len(previews(run))
    except OSError:
        return 0, 0
