"""What the cache holds; what is removed to make room, and what never is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from imggen.data import cache_contents
from imggen.data.cache_contents import NoRoomError, list_items, make_room
from imggen.data.dataset import DataOptions, Dataset, load_dataset
from tests.data.helpers import packed, write_images
from tests.helpers import RecordingReporter

BYTES = 6 * 32 * 32 * 3  # of the images of an entry


def add(tmp_path: Path, name: str, age: int, reporter: RecordingReporter | None = None) -> Dataset:
    """Decode a folder of six images, and set the time of its last use to `age` seconds after 1970."""
    root = tmp_path / name
    if not root.exists():
        write_images(root)
    options = DataOptions(cache_dir=tmp_path / "cache")
    data = load_dataset(str(root), options, max_size=32, reporter=reporter or RecordingReporter())
    if data.entry is not None:
        os.utime(data.entry.folder / "index.json", (age, age))
    return data


def images_in(tmp_path: Path) -> list[str]:
    return [item.name for item in list_items(tmp_path / "cache") if item.kind == "images"]


def test_the_least_recently_used_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, name in enumerate(("one", "two", "three")):
        add(tmp_path, name, 1000 + age)
    add(tmp_path, "one", 2000)  # used again
    assert images_in(tmp_path) == ["one", "three", "two"]
    monkeypatch.setattr("imggen.data.cache._INDEX_BYTES", 2_000)
    monkeypatch.setenv("IMGGEN_CACHE_LIMIT", f"{3.6 * BYTES / 1000}kB")
    recorder = RecordingReporter()
    data = add(tmp_path, "four", 3000, recorder)
    assert images_in(tmp_path) == ["four", "one", "three"] and not data.on_the_fly
    (line,) = [line for line in recorder.infos if "removed" in line]
    assert "two" in line and "to make room" in line and "kB" in line


def test_what_is_in_use_is_never_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = add(tmp_path, "used", 1000)
    add(tmp_path, "other", 2000)
    monkeypatch.setattr("imggen.data.cache._INDEX_BYTES", 2_000)
    monkeypatch.setenv("IMGGEN_CACHE_LIMIT", f"{2.6 * BYTES / 1000}kB")
    add(tmp_path, "new", 3000)
    assert images_in(tmp_path) == ["new", "used"] and used.images[3, 0, 0, 0] == 1
    del used
    add(tmp_path, "newer", 4000)
    assert images_in(tmp_path) == ["newer", "new"]


@pytest.mark.parametrize("cause", ["limit", "disk"])
def test_nothing_is_removed_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    add(tmp_path, "one", 1000)
    recorder = RecordingReporter()
    if cause == "disk":
        usage = type("Usage", (), {"free": 900_000, "total": 10**12})
        monkeypatch.setattr(cache_contents.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(NoRoomError, match=r"need 1.0 MB, and .* 900 kB") as caught:
        make_room(tmp_path / "cache", 1_000_000, 900_000 if cause == "limit" else None, recorder)
    assert ("IMGGEN_CACHE_LIMIT" if cause == "limit" else "free some space") in str(caught.value.hint)
    assert images_in(tmp_path) == ["one"] and not recorder.lines


def test_what_others_are_still_writing_is_not_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache" / f".{'0' * 32}-abc"
    folder.mkdir(parents=True)
    with (folder / "images.npy").open("wb") as file:
        file.truncate(600_000)  # sparse: nothing of it is written yet
    usage = type("Usage", (), {"free": 1_000_000, "total": 10**12})
    monkeypatch.setattr(cache_contents.shutil, "disk_usage", lambda _: usage)
    make_room(tmp_path / "cache", 300_000, None, RecordingReporter())
    with pytest.raises(NoRoomError, match="400 kB free"):
        make_room(tmp_path / "cache", 500_000, None, RecordingReporter())


def test_the_copy_of_an_earlier_state_goes_once_no_process_uses_it(tmp_path: Path) -> None:
    used = add(tmp_path, "d", 1000)
    (tmp_path / "d" / "a" / "000.png").unlink()
    add(tmp_path, "d", 2000)
    assert images_in(tmp_path) == ["d", "d"] and len(used.images[:]) == 6
    (outdated,) = [item for item in list_items(tmp_path / "cache") if item.outdated and item.kind == "images"]
    assert outdated.in_use
    del used
    recorder = RecordingReporter()
    add(tmp_path, "other", 3000, recorder)
    assert sorted(images_in(tmp_path)) == ["d", "other"]
    assert any("its source has changed" in line for line in recorder.infos)
    assert len(list((tmp_path / "cache" / "surveys").iterdir())) == 2


def test_other_splits_labels_and_forms_of_the_same_files_are_not_outdated(tmp_path: Path) -> None:
    write_images(tmp_path / "d" / "train")
    write_images(tmp_path / "d" / "test")
    for more in ({}, {"split": "test"}, {"use_classes": False}, {"size": 16}, {"crop": "pad"}):
        options = DataOptions(cache_dir=tmp_path / "cache", **more)
        load_dataset(str(tmp_path / "d"), options, max_size=32, reporter=RecordingReporter())
    assert len(images_in(tmp_path)) == 5
    assert not any(item.outdated for item in list_items(tmp_path / "cache"))


def test_an_unpacked_archive_stays_while_it_is_used_and_is_checked(tmp_path: Path) -> None:
    packed(write_images(tmp_path / "d"), tmp_path / "d.tgz")
    options = DataOptions(cache_dir=tmp_path / "cache", keep="none")

    def read() -> Dataset:
        return load_dataset(str(tmp_path / "d.tgz"), options, max_size=32, reporter=RecordingReporter())

    data = read()
    (item,) = [item for item in list_items(tmp_path / "cache") if item.kind == "archive"]
    assert (item.name, item.source, item.in_use) == ("d.tgz", str(tmp_path / "d.tgz"), True)
    assert not item.remove() and data.images[[5]][0, 0, 0, 0] == 5
    data.close()
    del data
    content = bytearray(item.paths[0].read_bytes())
    content[-1] ^= 1
    item.paths[0].write_bytes(content)
    os.utime(item.paths[0], (1, 1))
    read()
    assert item.paths[0].read_bytes() != content  # unpacked again
    packed(write_images(tmp_path / "d", 8), tmp_path / "d.tgz")
    assert [item.outdated for item in list_items(tmp_path / "cache") if item.kind == "archive"] == [True]


def test_what_imggen_did_not_write_is_not_listed(tmp_path: Path) -> None:
    cache_dir = tmp_path / "cache"
    for name in ("datasets/mine", "archives/mine", "features/mine", "surveys/mine", "0123", ".ssh", "photos"):
        (cache_dir / name).mkdir(parents=True)
        (cache_dir / name / "x.tar").write_text("x")
    (cache_dir / "archives" / "x.tar").write_text("x")
    (cache_dir / ("0" * 32)).write_text("a file, not a folder")
    assert list_items(cache_dir) == []
    (cache_dir / "datasets" / "MNIST").mkdir()
    (cache_dir / "datasets" / "MNIST" / "x").write_text("xyz")
    (item,) = list_items(cache_dir)
    assert (item.kind, item.name, item.bytes) == ("download", "mnist", 3)
    shutil.rmtree(cache_dir)
    assert list_items(cache_dir) == []


def test_the_record_of_an_unpacked_archive_that_is_gone_is_a_leftover(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "archives"
    folder.mkdir(parents=True)
    record = folder / f"{'0' * 32}.json"
    record.write_text("{}")
    (item,) = list_items(tmp_path / "cache")
    assert item.kind == "incomplete" and item.paths == (record,)
    assert cache_contents.remove_leftovers(tmp_path / "cache") == []  # its archive may just be about to come
    os.utime(record, (1, 1))
    assert cache_contents.remove_leftovers(tmp_path / "cache") and not record.exists()
