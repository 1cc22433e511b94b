"""The cache of decoded images: complete or not there, and no unreadable image in it."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from pathlib import Path

import pytest
from PIL import Image

from imggen.data import cache, cache_contents, workers
from imggen.data.cache_entry import open_entry, remove_unused
from imggen.data.cache_files import DamagedError, read_document, write_document
from imggen.data.dataset import DataOptions, Dataset, load_dataset, scan_dataset
from imggen.data.workers import DecodeJob
from imggen.errors import DataError
from imggen.io import locks
from imggen.io.locks import seize
from imggen.reporting import Silent
from tests.data.helpers import WarningRecorder, load, packed, write_images
from tests.helpers import RecordingReporter


def folder_of(data: Dataset) -> Path:
    """The folder of a data set's entry."""
    assert data.entry is not None
    return data.entry.folder


def test_unreadable_images_are_left_out_up_to_five_percent(tmp_path: Path) -> None:
    root = write_images(tmp_path / "d", 30)
    (root / "a" / "000.png").write_bytes(b"")
    recorder = WarningRecorder()
    data = load(tmp_path, recorder)
    assert len(data) == 29 and data.skipped == (("a/000.png", "empty file"),)
    assert data.images[:, 0, 0, 0].tolist() == [*range(2, 30, 2), *range(1, 30, 2)]
    assert "skipped 1 of 30" in recorder.warnings[0]
    with pytest.raises(DataError):
        load(tmp_path, strict=True)
    (root / "a" / "002.png").write_text("text")
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path)


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.png").write_text("text")
    with pytest.raises(DataError, match="none of 1"):
        load(tmp_path)


def test_an_interrupt_leaves_no_incomplete_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "d")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_write_labels_and_index", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path)
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == [".lock", "surveys"]


def test_only_leftovers_of_imggen_that_no_process_holds_are_removed(tmp_path: Path) -> None:
    """The cache may be any folder, even the user's home. A lock tells, not the age: clocks jump."""
    write_images(tmp_path / "d")
    key = load(tmp_path).key
    folder = tmp_path / "cache"
    left, held = folder / f".{key}-ab_1cd", folder / f".{key}-2345"
    others = [folder / name for name in (".vscode-server", ".npm-global", f".{key}")]
    unpacking = folder / "archives" / ".unpacking-abc"
    for path in (left, held, *others, unpacking):
        path.mkdir(parents=True)
        os.utime(path, (0, 0))
    os.utime(left)
    unpacking.rmdir()
    unpacking.write_bytes(b"x")
    lock = seize(held)
    (tmp_path / "d" / "a" / "000.png").unlink()
    load(tmp_path)
    assert not left.exists() and not unpacking.exists()
    assert held.exists() and all(path.exists() for path in others)
    assert lock is not None
    lock.release()
    (tmp_path / "d" / "a" / "002.png").unlink()
    load(tmp_path)
    assert not held.exists() and all(path.exists() for path in others)


def test_without_locks_leftovers_must_be_a_day_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    write_images(tmp_path / "d")
    old, new = (tmp_path / "cache" / f".{'0' * 32}-{name}" for name in ("old", "new"))
    for path in (old, new):
        path.mkdir(parents=True)
    os.utime(old, (0, 0))
    load(tmp_path)
    assert not old.exists() and new.exists()


def test_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "d")
    monkeypatch.setattr(cache_contents.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10, "total": 99}))
    monkeypatch.setenv("IMGGEN_CACHE_LIMIT", "none")
    with pytest.raises(DataError, match=r"need 1.1 MB, and .* has 0.0 kB free"):
        load(tmp_path, keep="disk")


@pytest.mark.parametrize("name", ["index.json", "images.npy", "labels.npy"])
@pytest.mark.parametrize("damage", ["one bit", "cut", "gone", "nothing left"])
def test_a_damaged_entry_is_reported_and_decoded_again(tmp_path: Path, name: str, damage: str) -> None:
    write_images(tmp_path / "d")
    data = load(tmp_path)
    levels = data.images[:, 0, 0, 0].tolist()
    file = folder_of(data) / name
    content = file.read_bytes()
    middle = len(content) * 2 // 3
    if damage == "gone":
        file.unlink()
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
        file.write_bytes({"one bit": flipped, "cut": content[:middle]}.get(damage, b""))
    del data
    recorder = WarningRecorder()
    again = load(tmp_path, recorder)
    assert again.images[:, 0, 0, 0].tolist() == levels and again.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (
        len(recorder.warnings) == 1 and "damaged" in recorder.warnings[0] and str(file.parent) in recorder.warnings[0]
    )
    recorder.warnings.clear()
    load(tmp_path, recorder)
    assert not recorder.warnings


def fields(**changes: object) -> dict[str, object]:
    return changes


@pytest.mark.parametrize(
    "change",
    [
        fields(version=1),
        fields(count="6"),
        fields(count=True),
        fields(count=-6),
        fields(count=5),
        fields(form=[32, 3]),
        fields(form=[32.0, 3, "center"]),
        fields(form=[16, 3, "center"]),
        fields(skipped=[["a"]]),
        fields(skipped={}),
        fields(classes="ab"),
        fields(created=1e999),
        fields(created=None),
        fields(blocks=[]),
        fields(blocks=""),
        fields(origin=None),
    ],
    ids=str,
)
def test_an_index_with_wrong_values_is_damaged(tmp_path: Path, change: dict[str, object]) -> None:
    write_images(tmp_path / "d")
    folder = folder_of(load(tmp_path))
    document = read_document(folder / "index.json")
    write_document(folder / "index.json", {**document, **change})
    with pytest.raises(DamagedError):
        open_entry(folder)
    for key in document:
        write_document(folder / "index.json", {name: value for name, value in document.items() if name != key})
        with pytest.raises(DamagedError):
            open_entry(folder)


def test_a_damaged_survey_is_made_again(tmp_path: Path) -> None:
    write_images(tmp_path / "d")
    load(tmp_path)
    (file,) = (tmp_path / "cache" / "surveys").iterdir()
    good = read_document(file)
    for document in ({**good, "channels": "3"}, {**good, "readable": -1}, {}):
        write_document(file, document)
        assert load(tmp_path).size == 32
        assert read_document(file) == good


def decoded_images(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are decoded into the cache from now on."""
    names: list[str] = []
    real = workers.decode_images

    def record(job: DecodeJob, indices: list[int]) -> object:
        names.extend(job.source.names[index] for index in indices)
        return real(job, indices)

    monkeypatch.setattr(workers, "decode_images", record)
    return names


@pytest.mark.parametrize("archive", [None, "d.zip", "d.tar"])
def test_only_new_and_changed_images_are_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: str | None
) -> None:
    root = write_images(tmp_path / "d", 8)

    def read() -> Dataset:
        spec = root if archive is None else packed(root, tmp_path / archive)
        options = DataOptions(size=32, cache_dir=tmp_path / "cache", crop="random")
        return load_dataset(str(spec), options, max_size=64, reporter=Silent())

    read()
    (root / "a" / "000.png").unlink()
    Image.new("RGB", (20, 99), (200, 0, 9)).save(root / "a" / "002.png")
    Image.new("RGB", (20, 20), (201, 0, 9)).save(root / "b" / "new.png")
    (root / "b" / "001.png").rename(root / "b" / "001b.png")  # the random crop follows from the name
    names = decoded_images(monkeypatch)
    data = read()
    changed = {"a/002.png", "b/001b.png", "b/new.png"}
    # The members of a tar have no fingerprint that can be trusted.
    assert set(names) == (
        changed if archive != "d.tar" else changed | {f"{'ab'[i % 2]}/{i:03d}.png" for i in range(3, 8)}
    )
    assert (
        data.images[:, 0, 0, 0].tolist() == [200, 4, 6, 1, 3, 5, 7, 201] and data.labels.tolist() == [0] * 3 + [1] * 5
    )
    shutil.rmtree(tmp_path / "cache")
    assert (read().images == data.images).all()


def test_an_unreadable_image_beside_unchanged_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_images(tmp_path / "d", 30)
    (root / "a" / "004.png").write_bytes(b"x")
    assert len(load(tmp_path)) == 29
    (root / "b" / "001.png").unlink()
    names = decoded_images(monkeypatch)
    data = load(tmp_path)
    assert names == ["a/004.png"] and len(data) == 28
    assert data.images[:, 0, 0, 0].tolist() == [0, 2, *range(6, 30, 2), *range(3, 30, 2)]


def test_images_that_vanish_while_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_images(tmp_path / "d", 30)
    options = DataOptions(cache_dir=tmp_path / "cache")
    scanned = scan_dataset(str(root), options, max_size=64, reporter=Silent())
    for index in range(0, 30, 10):
        (root / "a" / f"{index:03d}.png").unlink()
    with pytest.raises(DataError, match=r"3 of 30 .*a/000.png \(removed while it was read\)") as caught:
        scanned.load(Silent())
    assert "changed or removed while it was read" in str(caught.value.hint)
    shutil.rmtree(root)
    with pytest.raises(DataError, match="none of 30") as caught:
        scanned.load(Silent())
    assert "changed or removed while it was read" in str(caught.value.hint)


def test_a_cache_that_vanishes_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "d")
    real = workers.decode_images

    def remove_cache(job: DecodeJob, indices: list[int]) -> object:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        return real(job, indices)

    monkeypatch.setattr(workers, "decode_images", remove_cache)
    with pytest.raises(DataError, match="cannot write to the cache") as caught:
        load(tmp_path)
    assert "changed or removed while it was written" in str(caught.value.hint)


@pytest.mark.parametrize("limit", [10_000, 100_500, 108_000])
def test_a_disk_that_becomes_full_leaves_nothing(tmp_path: Path, limit: int) -> None:
    """A limit on the size of files fails like a full disk: the images alone have 36 x 3,072 bytes."""
    write_images(tmp_path / "d", 36)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    scanned = scan_dataset(
        str(tmp_path / "d"), DataOptions(cache_dir=tmp_path / "cache"), max_size=64, reporter=Silent()
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(DataError, match="File too large") as caught:
            scanned.load(Silent())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == 3
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [".lock", "surveys"]


@pytest.mark.parametrize("name", ["labels.npy", "rows.npy", "index.json"])
def test_a_disk_that_is_full_for_the_small_files_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_images(tmp_path / "d")
    real = os.replace

    def full(source: object, target: object) -> None:
        if str(target).endswith(name):
            raise OSError(28, "No space left on device")
        real(str(source), str(target))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match="No space left"):
        load(tmp_path)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [".lock", "surveys"]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOTDIR])
def test_a_cache_that_may_not_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write_images(tmp_path / "d")

    def refuse(_: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cache, "locked_cache", refuse)
    recorder = RecordingReporter()
    data = load(tmp_path, recorder)
    assert data.on_the_fly and data.images[[1]][0, 0, 0, 0] == 2
    assert "decoded each time" in recorder.infos[-1] and os.strerror(number) in recorder.infos[-1]
    with pytest.raises(DataError, match="cannot write to the cache") as caught:
        load(tmp_path, keep="disk")
    assert "--cache none" in str(caught.value.hint) and "free some space" not in str(caught.value.hint)


def test_without_locks_what_was_used_within_a_day_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "d")
    folder = folder_of(load(tmp_path))
    monkeypatch.setattr(locks, "fcntl", None)
    assert not remove_unused(folder) and folder.exists()
    os.utime(folder / "index.json", (1, 1))
    assert remove_unused(folder) and not folder.exists()
