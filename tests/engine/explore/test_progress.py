"""A run as the page describes it."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from imggen.engine.explore.progress import describe, find_run, previews, state_of
from imggen.engine.options import ExploreOptions
from imggen.engine.run_dir import RunDir
from imggen.reporting import duration


@pytest.fixture
def run() -> RunDir:
    (Path("runs/cats") / "samples").mkdir(parents=True)
    return RunDir(Path("runs/cats"))


def report(run: RunDir, *lines: dict[str, Any], age: float = 0.0) -> str:
    """The description of the run after these lines, the last of which is `age` seconds old."""
    for line in lines:
        run.append_metrics(line)
    os.utime(run.metrics, (time.time(), time.time() - age))
    return describe(run)


def test_time_left_follows_from_what_is_done(run: RunDir) -> None:
    assert report(run, {"other": 1}) == "The run has not reported yet."
    assert report(run, {"images": 64, "seconds": 2.0, "progress": 0.0}) == "Under way: 64 images in 2 s."
    text = report(run, {"images": 4000, "seconds": 300.0, "progress": 0.25})
    assert text == "Under way: 25%, 4,000 images in 5 min; about 15 min left."
    assert report(run, age=1000).startswith("Stopped at 25%: 4,000 images in 5 min.")
    text = report(run, {"images": 4100, "seconds": 1300.0, "progress": 0.3}, age=600)
    assert text.startswith("Under way: 30%")  # its lines come every 1,000 seconds
    assert report(run, {"images": 16000, "seconds": 8000.0, "progress": 1.0}) == "Ended: 16,000 images in 2 h 13 min."


def test_damaged_lines_are_skipped(run: RunDir) -> None:
    report(run, {"images": 10, "seconds": 10, "progress": 0.5})
    bad = [b"\xff\xfe", b'{"images": -1}', b"[]", b'{"images": 5, "seconds": "x", "progress": 1}', b"[" * 9999]
    bad += [json.dumps({"images": 5, "seconds": 1, "progress": float("inf")}).encode(), b'{"images": 1']
    run.metrics.write_bytes(run.metrics.read_bytes() + b"\n".join(bad))
    assert describe(run) == "Under way: 50%, 10 images in 10 s; about 10 s left."


def test_a_run_is_found_by_name_and_by_path(run: RunDir) -> None:
    assert find_run(ExploreOptions(model="cats")) is None
    report(run, {"images": 1})
    for name in ("cats", "runs/cats"):
        found = find_run(ExploreOptions(model=name))
        assert found is not None and found.path == run.path.absolute()
    assert find_run(ExploreOptions(model="cats", weights=Path("x.safetensors"))) is None
    assert find_run(ExploreOptions(model="gan")) is None
    # A path with a model precedes a run of the same name, as it does in other verbs.
    Path("cats").mkdir()
    for name in ("weights.safetensors", "metrics.jsonl"):
        Path("cats", name).touch()
    found = find_run(ExploreOptions(model="cats"))
    assert found is not None and found.path == Path("cats").absolute()


def test_previews_are_in_order_and_notice_new_ones(run: RunDir) -> None:
    assert state_of(run) == (0, 0)
    report(run, {"images": 1})
    before = state_of(run)
    for name in ("001000.png", "000002.png", "1000000.png", "x.png", ".000002.png.1.part"):
        (run.samples / name).touch()
    assert [path.name for path in previews(run)] == ["000002.png", "001000.png", "1000000.png"]
    assert state_of(run) != before


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (7200, "2 h 0 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
