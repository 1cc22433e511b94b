"""Images that are decoded each time they are read: the same as those of the cache, bit for bit."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from imggen.data import on_the_fly, workers
from imggen.data.dataset import DataOptions, Dataset, Order, load_dataset, scan_dataset
from imggen.data.on_the_fly import MAX_PREFETCHED, OnTheFlyImages
from imggen.data.readers import ArrayReader, Source
from imggen.errors import DataError
from imggen.reporting import Silent
from tests.data.helpers import load, packed, write_images
from tests.helpers import RecordingReporter


def of(data: Dataset) -> OnTheFlyImages:
    assert data.on_the_fly and isinstance(data.images, OnTheFlyImages)
    return data.images


@pytest.mark.parametrize("kind", ["folder", "d.zip", "d.tar", "d.tgz"])
@pytest.mark.parametrize("crop", ["center", "random", "pad"])
def test_batches_equal_those_of_the_cache(tmp_path: Path, kind: str, crop: str) -> None:
    root = write_images(tmp_path / "d", 20)
    spec = str(root if kind == "folder" else packed(root, tmp_path / kind))
    disk, live = (
        load_dataset(
            spec, DataOptions(cache_dir=tmp_path / "cache", crop=crop, keep=keep), max_size=64, reporter=Silent()
        )
        for keep in ("disk", "none")
    )
    assert not disk.on_the_fly and live.on_the_fly
    for name in ("name", "key", "classes", "class_counts", "size", "channels", "nbytes"):
        assert getattr(live, name) == getattr(disk, name), name
    assert len(live) == len(disk) == 20 and (live.labels == disk.labels).all()
    order = Order(20, 3)
    for start in range(0, 56, 8):
        live.prefetch(order.indices(start + 8, 8))
        for mine, expected in zip(
            live.batch(order.indices(start, 8)), disk.batch(order.indices(start, 8)), strict=True
        ):
            assert torch.equal(mine, expected) and mine.stride() == expected.stride()
    for rows in (slice(3, 9), slice(None), [5, 5, 0], np.array([7]), [], slice(18, 99)):
        assert np.array_equal(live.images[rows], disk.images[rows]), rows
    parts = [np.array([4, 2]), np.array([9]), np.array([2, 4])]
    assert all(
        np.array_equal(mine, expected)
        for mine, expected in zip(live.in_parts(parts), disk.in_parts(parts), strict=True)
    )
    assert torch.equal(live.to("cpu").batch(np.array([3, 1]))[0], disk.batch(np.array([3, 1]))[0])
    live.close()


def test_nothing_decoded_is_written(tmp_path: Path) -> None:
    write_images(tmp_path / "d")
    load(tmp_path, keep="none").batch(np.arange(6))
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_an_array_is_read_without_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MAX_IMAGES_FOR_THREADS", 1)
    monkeypatch.setattr(workers, "usable_cores", lambda: 2)
    pixels = np.arange(4 * 16 * 16, dtype=np.uint8).reshape(4, 16, 16)
    labels = np.zeros(4, np.int64)
    source = Source("set", (), list("abcd"), labels, "k", 0, ArrayReader(pixels), parallel=False)
    images = OnTheFlyImages(source, on_the_fly.Form(16, 1, "center"), tmp_path / "cache", False, Silent())
    assert not images.uses_processes and np.array_equal(images[[2, 0]][..., 0], pixels[[2, 0]])
    assert not (tmp_path / "cache").exists()


def test_prefetched_batches_are_used_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "d", 20)
    data = load(tmp_path, keep="none")
    decoded: list[int] = []
    real = on_the_fly.decode_images

    def record(job: object, indices: list[int]) -> object:
        decoded.extend(indices)
        return real(job, indices)  # type: ignore[arg-type]

    monkeypatch.setattr(on_the_fly, "decode_images", record)
    for start in range(10):
        for _ in range(2):
            data.prefetch(np.array([start, start + 1]))
    assert len(of(data)._prefetched) == MAX_PREFETCHED
    data.batch(np.array([9, 10]))
    assert len(of(data)._prefetched) == MAX_PREFETCHED - 1 and decoded.count(10) == 1
    data.batch(np.array([9, 10]))
    assert decoded.count(10) == 2
    data.close()
    assert not of(data)._prefetched


def damaged(tmp_path: Path, names: list[str], count: int = 60, survey: int = 4) -> OnTheFlyImages:
    """Images on the fly of a folder in which some, that the survey has not read, are unreadable."""
    root = write_images(tmp_path / "d", count)
    scanned = scan_dataset(
        str(root), DataOptions(size=32, cache_dir=tmp_path / "c", keep="none"), max_size=64, reporter=Silent()
    )
    for name in names:
        (root / name).write_bytes(b"x")
    return of(scanned.load(Silent()))


def test_unreadable_images_are_replaced_by_the_next_of_their_class(tmp_path: Path) -> None:
    """Whichever batch meets them first, and whether they had failed before the batch was prefetched."""
    names = ["a/004.png", "a/058.png", "b/007.png"]
    expected = np.array([*range(0, 60, 2), *range(1, 60, 2)])  # the red level of each row: its own number
    expected[[2, 29, 33]] = [6, 0, 9]
    orders = [np.arange(60), np.arange(60)[::-1], np.random.default_rng(0).permutation(60)]
    for number, order in enumerate(orders):
        images = damaged(tmp_path / str(number), names)
        images.prefetch(order[:30])
        images.prefetch(order[20:50])
        for part in (order[:30], order[20:50], order[:30], order):
            assert images[part][:, 0, 0, 0].tolist() == expected[part].tolist()
        assert images.skipped == tuple((name, "not an image") for name in names)


def test_unreadable_images_are_counted_and_reported(tmp_path: Path) -> None:
    images = damaged(tmp_path, ["a/004.png", "b/005.png"])
    images.reporter = reporter = RecordingReporter()
    images[0:60]
    images[0:60]
    (line,) = reporter.warnings
    assert "2 of 60" in line and "a/004.png (not an image)" in line


@pytest.mark.parametrize(("strict", "count"), [(True, 1), (False, 4)])
def test_too_many_unreadable_images_are_an_error(tmp_path: Path, strict: bool, count: int) -> None:
    images = damaged(tmp_path, [f"a/{2 * i:03d}.png" for i in range(count)])
    images.strict = strict
    with pytest.raises(DataError, match=f"{count} of 60 images"):
        images[0:60]


def test_a_class_of_which_no_image_can_be_read(tmp_path: Path) -> None:
    images = damaged(tmp_path, [], 60)
    images._reasons = dict.fromkeys(range(30), "not an image")
    with pytest.raises(DataError, match="none of the images of a "):
        images[[3]]


@pytest.mark.parametrize(("strict", "count"), [(True, 1), (False, 3)])
def test_the_survey_refuses_too_many_unreadable_images(tmp_path: Path, strict: bool, count: int) -> None:
    root = write_images(tmp_path / "d", 40)
    for i in range(count):
        (root / "b" / f"{2 * i + 1:03d}.png").write_bytes(b"x")
    with pytest.raises(DataError, match=f"{count} of 40 images of d cannot be read"):
        load(tmp_path, keep="none", strict=strict)
    if count == 1:
        assert len(load(tmp_path, keep="none").images[0:40]) == 40


def test_files_that_vanish_while_training(tmp_path: Path) -> None:
    images = damaged(tmp_path, [])
    for path in (tmp_path / "d" / "a").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="removed while it was read") as caught:
        images[0:60]
    assert "changed or removed" in str(caught.value.hint)


@pytest.mark.parametrize("cause", ["limit", "disk"])
def test_it_is_chosen_where_decoded_images_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    write_images(tmp_path / "d")
    expected = load(tmp_path).images[:].copy()
    usage = type("Usage", (), {"free": 9_000 if cause == "disk" else 10**12, "total": 10**12})
    monkeypatch.setattr("imggen.data.cache_contents.shutil.disk_usage", lambda _: usage)
    monkeypatch.setenv("IMGGEN_CACHE_LIMIT", "9kB" if cause == "limit" else "none")
    reporter = RecordingReporter()
    options = DataOptions(cache_dir=tmp_path / "other")
    data = load_dataset(str(tmp_path / "d"), options, max_size=64, reporter=reporter)
    assert data.on_the_fly and (data.images[:] == expected).all()
    (line,) = reporter.infos
    assert "decoded each time they are read" in line and "9.0 kB" in line and "1.1 MB" in line
    assert not load(tmp_path).on_the_fly  # what is decoded already is used


def test_torchrun_divides_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "d")
    monkeypatch.setattr(workers, "usable_cores", lambda: 9)
    for processes, expected in ((None, 9), ("4", 2), ("99", 1)):
        if processes is not None:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert of(load(tmp_path, keep="none")).workers == expected


@pytest.mark.slow
def test_worker_processes_agree_and_are_replaced_when_they_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "d", 40)
    expected = load(tmp_path, crop="random").images[:].copy()
    monkeypatch.setattr(workers, "MAX_IMAGES_FOR_THREADS", 1)
    monkeypatch.setattr(workers, "usable_cores", lambda: 2)
    reporter = RecordingReporter()
    options = DataOptions(cache_dir=tmp_path / "cache", crop="random", keep="none")
    images = of(load_dataset(str(tmp_path / "d"), options, max_size=64, reporter=reporter))
    assert images.uses_processes and "2 worker processes" in reporter.infos[0]
    assert (images[20:40] == expected[20:40]).all() and len(job_folders(tmp_path)) == 1
    executor = images._executor
    assert isinstance(executor, ProcessPoolExecutor)
    images.prefetch(np.arange(10))
    os.kill(next(iter(executor._processes)), signal.SIGKILL)
    for _ in range(1_000):
        if executor._broken:
            break
        time.sleep(0.02)
    rows = np.arange(0, 40, 3)
    images.prefetch(rows)
    assert (images[0:10] == expected[0:10]).all() and (images[rows] == expected[rows]).all()
    assert reporter.warnings == ["the worker processes ended early: decoding continues in this process, more slowly"]
    assert not job_folders(tmp_path)


def test_the_job_of_worker_processes_is_written_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "d")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(workers, "MAX_IMAGES_FOR_THREADS", 1)
    monkeypatch.setattr(workers, "usable_cores", lambda: 2)
    full = [tmp_path / "cache"]
    started: list[Path] = []

    def pool(job: object, job_file: Path, count: int) -> ThreadPoolExecutor:
        if any(job_file.is_relative_to(place) for place in full):
            raise OSError(28, "No space left on device")
        started.append(job_file)
        return ThreadPoolExecutor(count)

    monkeypatch.setattr(on_the_fly, "process_pool", pool)
    for expected in (tmp_path / "tmp", None):
        images = of(load(tmp_path, keep="none"))
        assert images[0:6].shape == (6, 32, 32, 3)
        assert [path.parents[1] for path in started] == ([] if expected is None else [expected])
        images.close()
        assert not job_folders(tmp_path) and not list((tmp_path / "tmp").iterdir())
        full.append(tmp_path / "tmp")
        started.clear()


def job_folders(tmp_path: Path) -> list[Path]:
    """Folders in the cache for the jobs of worker processes."""
    return [path for path in (tmp_path / "cache").iterdir() if path.name.startswith(".") and path.is_dir()]


def test_the_description_after_falling_back_to_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_the_fly, "max_workers", lambda: 2)
    monkeypatch.setattr(on_the_fly, "worth_processes", lambda _: True)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(on_the_fly, "process_pool", refuse)
    write_images(tmp_path / "d")
    images = of(load(tmp_path, keep="none"))
    assert images.uses_processes
    images[0:2]
    assert not images.uses_processes and "threads" in images.description
