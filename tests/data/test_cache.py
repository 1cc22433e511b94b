"""The cache of decoded images: complete or not there, and no unreadable image in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imggen.data import cache, cache_contents
from imggen.errors import DataError
from tests.data.helpers import WarningRecorder, load, write_images


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


def test_only_incomplete_folders_of_imggen_are_removed(tmp_path: Path) -> None:
    """The cache may be any folder, even the user's home."""
    write_images(tmp_path / "d")
    key = load(tmp_path).key
    names = (f".{key}-ab_1cd", ".vscode-server", ".npm-global", f".{key}")
    for name in names:
        (tmp_path / "cache" / name).mkdir()
        os.utime(tmp_path / "cache" / name, (0, 0))
    (tmp_path / "d" / "a" / "000.png").unlink()
    load(tmp_path)
    assert [name for name in names if (tmp_path / "cache" / name).exists()] == list(names[1:])


def test_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "d")
    monkeypatch.setattr(cache_contents.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10, "total": 99}))
    monkeypatch.setenv("IMGGEN_CACHE_LIMIT", "none")
    with pytest.raises(DataError, match=r"need 1.1 MB, and .* has 0.0 kB free"):
        load(tmp_path, keep="disk")


@pytest.mark.parametrize("damage", ["index.json", "images.npy", "labels.npy"])
def test_a_damaged_entry_is_decoded_again(tmp_path: Path, damage: str) -> None:
    write_images(tmp_path / "d")
    levels = load(tmp_path).images[:, 0, 0, 0].tolist()
    entry = load(tmp_path).entry
    assert entry is not None
    folder = entry.folder
    entry.lock.release()
    (folder / damage).write_bytes(b"damaged")
    assert load(tmp_path).images[:, 0, 0, 0].tolist() == levels
