"""Listing of folders and archives."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from imggen.data import scan
from imggen.data.scan import keeping_listings, open_images, open_source
from imggen.data.shards import is_archive
from imggen.errors import DataError, UsageError
from imggen.reporting import Silent
from tests.data.helpers import packed, tree

SPLIT_TREE = ("w/train/0/a.png", "w/train/2/b.PNG", "w/train/10/c.png", "w/test/2/d.png")


@pytest.mark.parametrize("kind", ["folder", "d.zip", "d.tar", "d.tgz", "d.tar.xz", "d.tar.bz2"])
def test_every_container_gives_the_same(tmp_path: Path, kind: str) -> None:
    root = tree(tmp_path / "d", *SPLIT_TREE, "w/train/._x.png", "__MACOSX/w/x.png", ".hidden/x.png")
    (root / "w" / "notes.txt").write_text("hello")
    spec = root if kind == "folder" else packed(root, tmp_path / kind)
    source = open_source(str(spec), cache_dir=tmp_path / "cache")
    assert source.classes == ("0", "2", "10")
    assert source.names == ["w/train/0/a.png", "w/train/10/c.png", "w/train/2/b.PNG"]
    assert source.labels.tolist() == [0, 2, 1]
    assert source.ignored == 1
    for i, name in enumerate(source.names):
        assert source.image(i) == (root / name).read_bytes()
    assert source.key == open_source(str(spec), cache_dir=tmp_path / "cache").key
    test = open_source(str(spec), split="test", cache_dir=tmp_path / "cache")
    assert (test.labels.tolist(), test.classes) == ([1], source.classes)
    assert len(open_source(str(spec), split="all", cache_dir=tmp_path / "cache")) == 4
    with pytest.raises(DataError, match="no val split"):
        open_source(str(spec), split="val", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("kind", ["folder", "d.zip", "d.tgz", "archives"])
def test_one_listing_serves_all_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    root = spec = tree(tmp_path / "d", *SPLIT_TREE)
    (root / "w" / "notes.txt").write_text("hello")
    if kind == "archives":
        spec = tree(tmp_path / "several", "notes.txt")
        packed(root, spec / "d.zip")
    elif kind != "folder":
        spec = packed(root, tmp_path / kind)

    def sources() -> list[tuple[str, list[str], int]]:
        opened = (open_source(str(spec), split=split, cache_dir=tmp_path / "cache") for split in ("test", "train"))
        return [(source.key, source.names, source.ignored) for source in opened]

    separate = sources()
    listed = []
    for name in ("list_folder", "list_archives"):
        real = getattr(scan, name)

        def counted(*given: object, name: str = name, real: object = real) -> object:
            listed.append(name)
            return real(*given)  # type: ignore[operator]

        monkeypatch.setattr(scan, name, counted)
    with keeping_listings():
        assert sources() == separate
    assert len(listed) == len(set(listed)) > 0
    sources()  # outside of the block nothing is kept
    assert len(listed) == 3 * len(set(listed))


def test_no_splits_and_no_classes(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "a.png", "x/b.png", "y/c.png")
    source = open_source(str(root), cache_dir=tmp_path)
    assert source.classes == () and source.labels.tolist() == [0, 0, 0]
    with pytest.raises(DataError, match="not divided"):
        open_source(str(root), split="test", cache_dir=tmp_path)


def test_classes_can_be_left_out_and_change_the_key(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "cat/a.png", "dog/b.png")
    plain = open_source(str(root), use_classes=False, cache_dir=tmp_path)
    assert plain.classes == ()
    assert plain.key != open_source(str(root), cache_dir=tmp_path).key


def test_linked_folders_do_not_loop(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "x/a.png")
    tree(tmp_path / "outside", "b.png")
    (root / "x" / "loop").symlink_to(root)
    (root / "y").symlink_to(tmp_path / "outside")
    assert open_source(str(root), cache_dir=tmp_path).names == ["x/a.png", "y/b.png"]


def test_defects_are_data_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    (tmp_path / "bad.tar").write_bytes(b"no tar" * 200)
    (tmp_path / "bad.tgz").write_bytes(b"no gzip")
    (tmp_path / "note.txt").write_text("x")
    for name in ("empty", "bad.zip", "bad.tar", "bad.tgz", "note.txt", "missing", "imagenet:nowhere"):
        with pytest.raises(DataError) as caught:
            open_source(str(tmp_path / name) if ":" not in name else name, cache_dir=tmp_path / "cache")
        assert caught.value.hint
    assert not list((tmp_path / "cache").rglob(".unpacking*"))


@pytest.mark.skipif(os.name != "posix", reason="there are no named pipes")
@pytest.mark.parametrize("name", ["pipe", "pipe.png", "pipe.zip", "pipe.tar", "pipe.tar.gz"])
def test_a_pipe_is_refused_and_not_opened(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for open_it in (partial(open_source, cache_dir=tmp_path / "cache"), partial(open_images, reporter=Silent())):
        with pytest.raises(UsageError, match=f"{name} is a pipe or a device"):
            open_it(str(tmp_path / name))


def test_missing_path_suggests(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError) as caught:
        open_source(str(tmp_path / "photso"), cache_dir=tmp_path)
    assert "photos" in str(caught.value.hint)
    with pytest.raises(DataError) as caught:
        open_source("mnits", cache_dir=tmp_path)
    assert "mnist" in str(caught.value.hint)


def test_encrypted_zip(tmp_path: Path) -> None:
    path = packed(tree(tmp_path / "d", "a.png"), tmp_path / "e.zip")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="encrypted"):
        open_source(str(path), cache_dir=tmp_path)


def test_previews_of_a_training_run_are_not_data(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "a.png", "run/samples/b.png", "run/c.png", "samples/d.png")
    for name in ("metrics.jsonl", "config.toml"):
        (root / "run" / name).write_text("")
    assert open_source(str(root), cache_dir=tmp_path).names == ["a.png", "samples/d.png"]
    assert open_source(str(root / "run"), cache_dir=tmp_path).names == ["c.png"]


def test_archives_are_known_by_their_ending() -> None:
    assert all(is_archive(Path(name)) for name in ("a.ZIP", "a.tar", "a.tar.gz", "a.tgz", "a.txz", "a.tbz2"))
    assert not any(is_archive(Path(name)) for name in ("zip", "a.gz", "a.png"))


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="dev"):
        open_source(str(tmp_path), split="dev", cache_dir=tmp_path)


def test_what_is_excluded_of_imagenet(tmp_path: Path) -> None:
    tree(tmp_path / "i" / "train", "cat/a.png", "dog/b.png", "out/c.png")
    excluded = (tmp_path / "i" / "train" / "out",)
    source = open_source(f"imagenet:{tmp_path / 'i'}", cache_dir=tmp_path, exclude=excluded)
    assert source.names == ["train/cat/a.png", "train/dog/b.png"]
