"""What is installed: weights in the wheel and in an editable install, the types, the version."""

import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import imggen
from imggen.io.model_paths import shipped_weights

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_draws_with_its_own_weights(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert "imggen/weights/gan.safetensors" in names and "imggen/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "weights/"))]
    # -S and -P would hide torch; the unpacked wheel simply comes first on the path.
    code = (
        "import sys; sys.path.insert(0, 'site'); from imggen.cli.app import main\n"
        "main(['sample', 'gan', '-n', '4', '--seed', '1', '-o', 'grid.png', '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    result = json.loads(done.stdout)
    assert (tmp_path / "grid.png").exists()
    assert Path(result["weights"]) == tmp_path / "site" / "imggen" / "weights" / "gan.safetensors"


def test_the_wheel_asks_for_what_pyproject_says(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("METADATA"))
        metadata = archive.read(name).decode()
    assert f"Version: {imggen.__version__}" in metadata
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {line.split(">=")[0].removeprefix("Requires-Dist: ") for line in metadata.splitlines() if ">=" in line}
    assert needed >= {name.split(">=")[0] for name in project["dependencies"]}


def test_weights_are_found_here_and_are_small() -> None:
    found = shipped_weights()
    assert found["gan"].stat().st_size <= 8_000_000 and found["features"].stat().st_size <= 2_000_000
    assert sum(path.stat().st_size for path in found.values()) < 40_000_000


def test_every_shipped_model_has_a_card() -> None:
    cards = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    for name in shipped_weights():
        assert f"## {name}" in cards


def test_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert text.startswith("# Changelog") and "## [Unreleased]" in text
