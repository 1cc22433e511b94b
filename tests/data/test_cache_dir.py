"""Where the cache is: also for a user without a home folder."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from imggen.data.cache_dir import cache_limit, default_cache_dir, expand_user, warn_of_temporary_cache
from imggen.data.scan import open_source
from imggen.errors import DataError, UsageError
from tests.data.helpers import WarningRecorder, load, write_images


@pytest.fixture
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user as in a container: no HOME, no entry in /etc/passwd; returns the temporary folder."""

    def missing(_: object) -> None:
        raise KeyError

    for name in ("HOME", "IMGGEN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", missing)
    monkeypatch.setattr(pwd, "getpwnam", missing)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_without_a_home_folder_the_cache_is_private_and_temporary(no_home: Path) -> None:
    folder = no_home / f"imggen-{os.getuid()}"
    recorder = WarningRecorder()
    for _ in range(2):
        assert default_cache_dir() == folder and folder.stat().st_mode & 0o777 == 0o700
        warn_of_temporary_cache(recorder)
    assert (
        len(recorder.warnings) == 1 and "IMGGEN_CACHE" in recorder.warnings[0] and str(folder) in recorder.warnings[0]
    )


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
@pytest.mark.parametrize("fault", ["file", "missing below a file", "locked", "unreadable"])
def test_a_cache_that_cannot_be_made_or_read_is_a_private_temporary_folder(
    no_home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, fault: str
) -> None:
    place = no_home / "place"
    cache = place / (".cache/imggen" if variable == "HOME" else "imggen")
    allowed = {"locked": os.F_OK | os.R_OK | os.X_OK, "unreadable": os.F_OK}.get(fault)
    if allowed is None:
        place.write_text("")
    else:
        (place if fault == "locked" else cache).mkdir(parents=True)
        access = os.access

        def denied(path: str | Path, mode: int) -> bool:
            return access(path, mode) and not (Path(path).is_relative_to(place) and mode & ~allowed)

        monkeypatch.setattr(os, "access", denied)  # root may do anything, so permissions cannot be taken away
    monkeypatch.setenv(variable, str(place / "x" if fault == "missing below a file" else place))
    recorder = WarningRecorder()
    for _ in range(2):
        assert default_cache_dir() == no_home / f"imggen-{os.getuid()}"
        warn_of_temporary_cache(recorder)
    (warning,) = recorder.warnings
    verb = "read" if fault == "unreadable" else "made"
    assert f"imggen cannot be {verb}" in warning and str(place) in warning and "IMGGEN_CACHE" in warning


@pytest.mark.usefixtures("no_home")
def test_a_cache_that_can_only_be_read_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    (tmp_path / "c/imggen").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and not mode & os.W_OK)
    recorder = WarningRecorder()
    warn_of_temporary_cache(recorder)
    assert default_cache_dir() == tmp_path / "c/imggen" and not recorder.warnings


@pytest.mark.parametrize("trap", ["open to others", "link", "file", "foreign"])
def test_a_temporary_folder_that_others_may_control_is_refused(
    no_home: Path, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    folder = no_home / f"imggen-{os.getuid()}"
    if trap == "open to others":
        folder.mkdir(mode=0o755)
    elif trap == "file":
        folder.write_text("")
    elif trap == "link":
        (no_home / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(no_home / "elsewhere")
    else:
        other = os.getuid() + 1
        folder = folder.with_name(f"imggen-{other}")
        folder.mkdir(mode=0o700)
        monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(DataError, match=folder.name) as caught:
        default_cache_dir()
    assert "IMGGEN_CACHE" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["IMGGEN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"])
def test_a_chosen_folder_needs_no_home(no_home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, str(no_home / "c"))
    recorder = WarningRecorder()
    warn_of_temporary_cache(recorder)
    assert default_cache_dir().is_relative_to(no_home / "c") and not recorder.warnings


@pytest.mark.parametrize("text", ["~/x", "~nobody-of-that-name/x", "imagenet:~/x"])
@pytest.mark.usefixtures("no_home")
def test_a_tilde_without_a_home_folder_is_an_error_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="home folder") as caught:
        open_source(text, cache_dir=tmp_path)
    assert "HOME" in str(caught.value.hint)


@pytest.mark.usefixtures("no_home")
def test_a_tilde_in_the_cache_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGGEN_CACHE", "~/c")
    with pytest.raises(DataError, match="home folder"):
        default_cache_dir()


def test_a_name_that_begins_with_a_tilde(tmp_path: Path) -> None:
    (tmp_path / "~odd").mkdir()
    assert expand_user("~odd") == Path("~odd")  # the current folder is tmp_path
    assert expand_user("~/x") == Path.home() / "x"


def test_the_limit_is_that_of_the_option_then_of_the_variable_then_a_fifth_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imggen.data import cache_dir
    from imggen.option import parse_limit

    monkeypatch.setattr(cache_dir.shutil, "disk_usage", lambda _: type("Usage", (), {"total": 1000}))
    folder = tmp_path / "not" / "there"
    assert cache_limit(folder) == 200
    for text, expected in (("50GB", 50_000_000_000), ("1.5 mb", 1_500_000), ("30%", 300), ("none", None)):
        monkeypatch.setenv("IMGGEN_CACHE_LIMIT", text)
        assert cache_limit(folder) == expected
        assert cache_limit(folder, parse_limit("5kB")) == 5_000
    for text in ("50", "-1GB", "120%", "much", "1e9GB"):
        monkeypatch.setenv("IMGGEN_CACHE_LIMIT", text)
        with pytest.raises(UsageError, match="IMGGEN_CACHE_LIMIT"):
            cache_limit(folder)


def test_training_data_of_a_user_without_a_home_folder(no_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from imggen.data.dataset import DataOptions, load_dataset

    write_images(no_home / "d")
    recorder = WarningRecorder()
    assert len(load_dataset(str(no_home / "d"), DataOptions(), max_size=64, reporter=recorder)) == 6
    assert len(recorder.warnings) == 1 and (no_home / f"imggen-{os.getuid()}" / "surveys").is_dir()
    assert len(load(no_home)) == 6
