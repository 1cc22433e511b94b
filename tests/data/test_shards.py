"""Several archives as one data set: braces, folders of archives, webdataset's labels, splits."""

import io
import tarfile
from pathlib import Path

import pytest

from imggen.data.readers import Source
from imggen.data.scan import open_source
from imggen.data.shards import expand_braces
from imggen.errors import DataError, UsageError
from tests.data.helpers import packed, png, tree


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def opened(spec: Path | str, tmp_path: Path, **more: object) -> Source:
    return open_source(str(spec), cache_dir=tmp_path / "cache", **more)


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("{000..002}.tar", ["000.tar", "001.tar", "002.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}-{0..1}.zip", ["a-0.zip", "a-1.zip", "b-0.zip", "b-1.zip"]),
        ("plain{}.tar", ["plain{}.tar"]),
    ],
)
def test_braces(spec: str, names: list[str]) -> None:
    assert expand_braces(spec) == names


@pytest.mark.parametrize("spec", ["{0..999999999}", "{0..99999}{0..99999}", "x{" + "a," * 200_000 + "}"])
def test_too_many_names_are_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="too long"):
        expand_braces(spec)


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_shards_in_braces_and_in_a_folder_are_one_data_set(tmp_path: Path, ending: str) -> None:
    for shard in range(3):
        files = {f"{shard}{i}.png": png(10 * shard + i) for i in range(2)} | {"meta.json": b"{}"}
        tar_of(tmp_path / "s" / f"{shard:02d}{ending}", files)
    braces, folder = opened(tmp_path / ("s/{00..02}" + ending), tmp_path), opened(tmp_path / "s", tmp_path)
    assert braces.names == folder.names == [f"{s:02d}{ending}/{s}{i}.png" for s in range(3) for i in range(2)]
    assert [braces.image(i) for i in range(6)] == [png(10 * s + i) for s in range(3) for i in range(2)]
    assert braces.key == opened(tmp_path / ("s/{00..02}" + ending), tmp_path).key
    assert "3 archives" in folder.notes[0] and folder.ignored == 3
    assert (tmp_path / "cache" / "archives").exists() == (ending != ".tar")
    before = folder.key
    tar_of(tmp_path / "s" / f"01{ending}", {"10.png": png(99)})
    assert opened(tmp_path / "s", tmp_path).key != before


def test_zips_and_tars_together(tmp_path: Path) -> None:
    packed(tree(tmp_path / "d", "cat/a.png", "dog/b.png"), tmp_path / "s.zip")
    tar_of(tmp_path / "t.tar", {"cat/c.png": png(7)})
    source = opened(tmp_path / "{s.zip,t.tar}", tmp_path)
    assert source.names == ["s.zip/cat/a.png", "s.zip/dog/b.png", "t.tar/cat/c.png"]
    assert (source.classes, source.labels.tolist()) == (("cat", "dog"), [0, 1, 0]) and source.image(2) == png(7)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    tar_of(tmp_path / "0.tar", {"a.png": png()})
    with pytest.raises(DataError, match=r"no .*/1\.tar") as caught:
        opened(tmp_path / "{0..2}.tar", tmp_path)
    assert "2 of 3" in str(caught.value.hint)
    (tmp_path / "1.txt").write_text("x")
    with pytest.raises(DataError, match=r"1\.txt is not an archive"):
        opened(tmp_path / "{0.tar,1.txt}", tmp_path)


def test_labels_beside_the_images_are_classes(tmp_path: Path) -> None:
    files = {"0.png": png(0), "0.cls": b"10\n", "1.png": png(1), "1.cls": b"2", "1.json": b"{}"}
    for path in (tar_of(tmp_path / "t.tar", files), tmp_path / "z.zip"):
        if path.suffix == ".zip":
            (tmp_path / "d").mkdir()
            for name, data in files.items():
                (tmp_path / "d" / name).write_bytes(data)
            packed(tmp_path / "d", path)
        source = opened(path, tmp_path)
        assert (source.classes, source.labels.tolist(), source.ignored) == (("2", "10"), [1, 0], 1)
        assert opened(path, tmp_path, use_classes=False).classes == ()


def test_labels_of_some_images_only_are_a_warning(tmp_path: Path) -> None:
    files = {"cat/0.png": png(0), "cat/0.cls": b"1", "dog/1.png": png(1), "dog/1.cls": b"\xff\x00"}
    source = opened(tar_of(tmp_path / "t.tar", files), tmp_path)
    assert source.classes == ("cat", "dog") and "1 of 2 images have no class" in source.warnings[0]


def test_splits_of_shards(tmp_path: Path) -> None:
    for name in ("x-train-000", "x-train-001", "x-val-000"):
        tar_of(tmp_path / "s" / f"{name}.tar", {"0.png": png(1), "0.cls": b"0", "1.png": png(2), "1.cls": b"1"})
    assert opened(tmp_path / "s", tmp_path).names == [f"x-train-00{s}.tar/{i}.png" for s in (0, 1) for i in (0, 1)]
    assert opened(tmp_path / "s", tmp_path, split="val").classes == ("0", "1")
    for name in ("train/0", "test/0"):
        tar_of(tmp_path / "f" / f"{name}.tar", {"0.png": png(1)})
    assert opened(tmp_path / "f", tmp_path, split="test").names == ["test/0.tar/0.png"]


def test_archives_beside_images_are_a_warning(tmp_path: Path) -> None:
    tar_of(tmp_path / "d" / "x.tar", {"a.png": png()})
    tree(tmp_path / "d", "b.png")
    source = opened(tmp_path / "d", tmp_path)
    assert source.names == ["b.png"] and "1 .tar file is left out" in source.warnings[0]


def test_what_lies_beside_archives_is_reported(tmp_path: Path) -> None:
    tar_of(tmp_path / "s" / "0.tar", {"a.png": png()})
    for name in ("b.heic", "notes.txt"):
        (tmp_path / "s" / name).write_text("x")
    (tmp_path / "s" / "gone.png").symlink_to("nowhere")
    source = opened(tmp_path / "s", tmp_path)
    assert source.names == ["0.tar/a.png"] and source.ignored == 2
    assert ["1 .heic file" in source.warnings[0], "gone.png" in source.warnings[1]] == [True, True]
    assert len(source.warnings) == 2 and "1 .txt" in source.notes[-1]
