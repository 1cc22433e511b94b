"""`imggen cache`: what the user sees, and what is removed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from imggen.data.dataset import DataOptions, Dataset, load_dataset
from imggen.reporting import Silent
from tests.data.helpers import write_images
from tests.helpers import run_cli

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `imggen cache`; returns the exit code, stdout and stderr."""
    return lambda *words: run_cli(capsys, "cache", *words)


def decode(name: str, **options: object) -> Dataset:
    if not Path(name).exists():
        write_images(Path(name))
    return load_dataset(name, DataOptions(**options), max_size=32, reporter=Silent())


def entries(call: Call, *words: object) -> list[dict[str, object]]:
    listed: list[dict[str, object]] = json.loads(call(*words, "--json")[1])["entries"]
    return listed


def names(call: Call) -> list[object]:
    return [entry["name"] for entry in entries(call) if entry["kind"] in ("images", "download", "damaged")]


def test_an_empty_cache(call: Call) -> None:
    code, out, err = call()
    assert (code, err) == (0, "") and out.startswith(f"{Path('cache').absolute()}: 0.0 kB, limit ")
    for action in ("prune", "clear"):
        assert call(action)[0] == 0 and not Path("cache").exists()


def test_the_list(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGGEN_CACHE_LIMIT", "50GB")
    used = decode("cats", size=16)
    decode("dogs", crop="pad", channels=1)
    shutil.rmtree("dogs")
    code, out, err = call()
    head, first, second, features, total = out.splitlines()
    assert (code, err) == (0, "") and head.split("  ")[0] == "name"
    assert "32x32 gray pad" in first and "(is gone)" in first and "just now" in first
    assert second.split() == ["cats", "images", "16x16", "color", "6", *second.split()[5:]]
    assert "(in use)" in second and str(Path("cats").absolute()) in second
    assert features.startswith("features, surveys and directions: 2 files") and "limit 50 GB" in total
    assert [entry["source_exists"] for entry in entries(call) if entry["kind"] == "images"] == [False, True]
    assert [entry["images"] for entry in entries(call, "list", "cats") if entry["kind"] == "images"] == [6]
    assert len(used) == 6


def test_clear_removes_all_but_downloads_and_what_is_used(call: Call) -> None:
    used = decode("cats")
    decode("dogs")
    Path("cache/datasets/MNIST").mkdir(parents=True)
    Path("cache/mine.txt").write_text("mine")
    code, out, err = call("clear", "--dry-run")
    assert code == 0 and "would remove" in out and "dogs" in out and sorted(names(call)) == ["cats", "dogs", "mnist"]
    code, out, err = call("clear")
    assert code == 0 and "removed" in out and "dogs" in out and "cats" not in out
    assert err == "warning: kept, as a process uses it: cats\n"
    assert sorted(names(call)) == ["cats", "mnist"] and used.images[1, 0, 0, 0] == 2
    assert call("clear", "mnist")[0] == 0 and names(call) == ["cats"]
    del used
    assert call("clear")[0] == 0
    assert sorted(path.name for path in Path("cache").rglob("*") if path.is_file()) == [".lock", "mine.txt"]


@pytest.mark.parametrize("name", ["cats", "./cats", "absolute"])
def test_clear_by_name_or_path(call: Call, name: str) -> None:
    decode("cats")
    decode("cats", size=16)
    decode("dogs")
    assert call("clear", Path("cats").absolute() if name == "absolute" else name)[0] == 0
    assert names(call) == ["dogs"]
    code, out, err = call("clear", "cats")
    assert (code, out) == (2, "") and "'cats'" in err and "it holds dogs" in err


def test_prune_removes_what_is_of_no_use_and_then_the_least_recently_used(call: Call) -> None:
    for age, name in enumerate(("gone", "damaged", "changed", "old", "new")):
        entry = decode(name).entry
        assert entry is not None
        entry.lock.release()
        os.utime(entry.folder / "index.json", (1000 + age, 1000 + age))
        if name == "damaged":
            (entry.folder / "index.json").write_text("{}")
    shutil.rmtree("gone")
    held = decode("changed")
    Path("changed/a/000.png").unlink()
    decode("changed")
    del held
    leftover = Path(f"cache/.{'0' * 32}-abc")
    leftover.mkdir()
    code, out, _ = call("prune", "--dry-run")
    assert code == 0 and "new" not in out and leftover.exists()
    assert call("prune")[0] == 0
    assert sorted(map(str, names(call))) == ["changed", "new", "old"] and not leftover.exists()
    code, out, _ = call("prune", "--limit", "40kB")
    assert code == 0 and "old" in out and sorted(map(str, names(call))) == ["changed", "new"]
    assert call("prune", "--limit", "none")[1].startswith("removed 0.0 kB")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["empty"], "list, prune, clear"),
        (["prune", "cats"], "imggen cache clear cats"),
        (["clear", "cats"], "it is empty"),
        (["list", "cats"], "it is empty"),
        (["prune", "--limit", "much"], "50GB"),
    ],
)
def test_wrong_input(call: Call, words: list[str], hint: str) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "") and hint in err.splitlines()[-1] and err.startswith("error: ")


def test_a_wrong_variable_is_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGGEN_CACHE_LIMIT", "much")
    code, _, err = call()
    assert code == 2 and "'much' is not a limit" in err


def test_names_from_a_disk_are_not_printed_raw(call: Call) -> None:
    decode("od\x1b[31md")
    code, out, _ = call()
    assert code == 0 and "\x1b" not in out


def test_what_is_still_being_written_is_kept_and_said_to_be(call: Call) -> None:
    half = Path("cache/surveys/.x.json.1a2b3c.part")
    half.parent.mkdir(parents=True)
    half.write_text("half")
    document = json.loads(call("clear", "--json")[1])
    assert (
        half.exists()
        and document["removed"] == []
        and [item["paths"] for item in document["kept"]] == [[str(half.absolute())]]
    )
    os.utime(half, (1, 1))
    document = json.loads(call("clear", "--json")[1])
    assert not half.exists() and document["kept"] == [] and len(document["removed"]) == 1
