"""What is installed: the weights in the wheel and in an editable install, the types, the version; and the changelog."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import imggen
from imggen.io.checkpoint import read_header
from imggen.io.model_paths import shipped_weights

ROOT = Path(__file__).parents[1]
SECTIONS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.lint
@pytest.mark.slow
def test_the_wheel_samples_with_its_own_weights(wheel: Path, tmp_path: Path) -> None:
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


@pytest.mark.lint
@pytest.mark.slow
def test_the_wheel_requires_the_dependencies_of_pyproject(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("METADATA"))
        metadata = archive.read(name).decode()
    assert f"Version: {imggen.__version__}" in metadata
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {line.split(">=")[0].removeprefix("Requires-Dist: ") for line in metadata.splitlines() if ">=" in line}
    assert required >= {name.split(">=")[0] for name in project["dependencies"]}


def test_shipped_weights_are_small() -> None:
    sizes = {name: path.stat().st_size for name, path in shipped_weights().items()}
    assert sizes["gan"] <= 11_000_000 and sizes["features"] <= 2_000_000
    assert sum(sizes.values()) < 40_000_000


def test_every_shipped_model_has_a_card() -> None:
    cards = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    for name in shipped_weights():
        assert f"## {name}" in cards


def test_every_shipped_generator_names_who_made_its_images() -> None:
    for name, path in shipped_weights().items():
        if name == "features":
            continue
        header = read_header(path)
        for key in ("author", "license"):
            assert header.metadata[f"modelspec.{key}"] == header.document["provenance"][key], name


def test_the_changelog_has_the_structure_of_keep_a_changelog() -> None:
    """Versions, newest first; in each the sections of the format; in each section entries of whole sentences."""
    title, *parts = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert title.startswith("# Changelog\n") and "keepachangelog.com" in title
    versions = [part.partition("\n")[0] for part in parts]
    assert versions[0] in ("[Unreleased]",) or versions[0].startswith(f"[{imggen.__version__}] - ")
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in versions[1:])
    assert len(set(versions)) == len(versions)
    for version, part in zip(versions, parts, strict=True):
        before, *sections = re.split(r"^### ", part.partition("\n")[2], flags=re.MULTILINE)
        names = [section.partition("\n")[0] for section in sections]
        assert not before.strip() and names == sorted(set(names), key=SECTIONS.index), version
        for section in sections:
            entries = re.split(r"^- ", section.partition("\n")[2], flags=re.MULTILINE)
            assert not entries[0].strip() and len(entries) > 1, section
            for entry in entries[1:]:
                assert re.match(r"[A-Z`\d]", entry) and re.search(r"[.!)]$", entry.strip()), entry
