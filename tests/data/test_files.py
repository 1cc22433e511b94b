"""The one lister of folders: links, what cannot be read, and what is left out on purpose."""

import os
from pathlib import Path
from typing import Any

import pytest

from imggen.data.files import images_below, list_folder
from imggen.errors import DataError
from tests.data.helpers import tree


def names(root: Path, *exclude: Path) -> list[str]:
    return [file.name for file in list_folder(root, exclude).images]


def test_images_are_sorted_and_hidden_ones_left_out(tmp_path: Path) -> None:
    tree(tmp_path, "b.png", "a/c.JPG", ".hidden/x.png", "__MACOSX/y.png")
    (tmp_path / "note.txt").write_text("x")
    images, left_out = images_below(tmp_path)
    assert images == [Path("a/c.JPG"), Path("b.png")] and left_out.endings == {".txt": 1}


def test_each_real_folder_is_listed_once(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "x/a.png", "z/c.png")
    tree(tmp_path / "outside", "b.png")
    (root / "x" / "loop").symlink_to(root)
    (root / "a").symlink_to(root / "z")
    (root / "y").symlink_to(tmp_path / "outside")
    assert names(root) == ["x/a.png", "y/b.png", "z/c.png"]
    (tmp_path / "link").symlink_to(root)
    assert names(tmp_path / "link") == names(root)


def test_links_that_lead_nowhere_are_left_out_and_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "a.png")
    for name, target in (("loop.png", "loop.png"), ("gone.png", "nowhere"), ("one", "two"), ("two", "one")):
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.png")
    (root / "zero.png").symlink_to("/dev/zero")
    listing = list_folder(root)
    assert [file.name for file in listing.images] == ["a.png"]
    assert sorted(listing.left_out.broken_links) == ["gone.png", "loop.png", "one", "two"]
    assert sorted(listing.left_out.special) == ["pipe.png", "zero.png"]
    assert any("gone.png, loop.png" in line for line in listing.left_out.warnings("d"))


def test_folders_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "d", "a.png", "private/b.png")
    scan, stat = os.scandir, os.stat

    def refuse(folder: str) -> object:
        if Path(folder).name == refused:
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    def refuse_within(path: str | Path, **more: Any) -> object:
        if Path(path).parent.name == refused:
            raise PermissionError(13, "Permission denied", path)
        return stat(path, **more)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "stat", refuse_within)
    refused = "private"
    assert names(root) == ["a.png"]
    (warning,) = list_folder(root).left_out.warnings("d")
    assert "private (Permission denied)" in warning
    refused = "d"
    with pytest.raises(DataError, match=r"cannot read .*/d: Permission denied"):
        list_folder(root)


def test_a_file_that_goes_away_while_listing_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, scan = tree(tmp_path / "d", "a.png", "b.png"), os.scandir

    def scan_and_remove(folder: str) -> object:
        with scan(folder) as entries:
            found = list(entries)
        (root / "b.png").unlink()

        class Entries(list[os.DirEntry[str]]):
            def __enter__(self) -> list[os.DirEntry[str]]:
                return found

            def __exit__(self, *_: object) -> None:
                pass

        return Entries()

    monkeypatch.setattr(os, "scandir", scan_and_remove)
    assert names(root) == ["a.png"]


def test_other_arguments_inside_the_folder_are_excluded(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "a.png", "masks/a.png", "filled/x/a.png", "sheet.png")
    (tmp_path / "alias").symlink_to(root / "filled")
    assert names(root, root / "masks", root / "sheet.png", tmp_path / "alias") == ["a.png"]
    everything = names(root)
    assert len(everything) == 4
    assert names(root, root) == names(root, tmp_path) == names(root, tmp_path / "nowhere") == everything
    assert names(root / "masks", root) == ["a.png"]


def test_a_folder_without_images_says_what_is_there(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.HEIC").write_bytes(b"x")
    with pytest.raises(DataError, match="there are no images") as caught:
        images_below(tmp_path)
    assert "3 .heic" in str(caught.value.hint)
