"""The README is true: every command in it runs, and so does its Python."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imggen.cli.app import main
from imggen.models.gan.inversion import SearchBudget
from tests.test_contract import SMALL_SEARCH

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(?:sh|python)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("imggen ")]
SMALL = ["--images", "32", "--batch", "16", "--size", "16", "--width", "8", "--max-width", "16"]
SMALL_CLASSIFIER = SMALL[: SMALL.index("--max-width")]


def call(command: str) -> None:
    words = shlex.split(command)[1:]
    with_output = ">" in words
    if with_output:
        words = words[: words.index(">")]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert not caught.value.code, command


def shortened(command: str) -> str:
    """The same training with a budget and a model that take a second."""
    command = re.sub(r" --(minutes|size|images) \S+", "", command)
    if "--resume" in command:
        return command.replace("--resume", "--resume --images 48")
    if command.startswith(("imggen train segment", "imggen train translate")):
        return shlex.join([*shlex.split(command), *SMALL[:-2]])  # the last one is a GAN's
    return shlex.join([*shlex.split(command), *(SMALL if "classify" not in command else SMALL_CLASSIFIER)])


def fewer(command: str) -> str:
    """The same command with fewer images, frames and repetitions."""
    for option, number in (("-n", 2 if "inpaint" in command else 12), ("--frames", 8), ("--iw", 2)):
        command = re.sub(
            rf" {option} (\d+)", lambda match, n=number, o=option: f" {o} {min(int(match[1]), n)}", command
        )
    # Of the four images that the VAE draws, and fills later, two.
    return re.sub(r"^(imggen sample vae --seeds \d+,\d+),\d+,\d+ ", r"\1 ", command)


def make_readers_files() -> None:
    """Make the images and masks that the reader of the README has."""
    image, mask = Image.new("RGB", (16, 16), "navy"), Image.new("L", (16, 16))
    image.paste("white", (3, 3, 12, 12))
    mask.paste(255, (6, 6, 8, 14))
    for folder in ("photos", "masks", "drawings", "colored", "few"):
        Path(folder).mkdir()
    for name in (
        "a.png",
        "b.png",
        "x.png",
        "query.png",
        "scan.tif",
        "photos/1.png",
        "photos/2.png",
        "photo.jpg",
        "painting.jpg",
    ):
        image.save(name)
    for number in range(3):
        Image.new("RGB", (16, 16), (60 * number, 0, 0)).save(f"few/{number}.png")
    for name in ("m.png", "scratches.png", "masks/1.png", "masks/2.png"):
        mask.save(name)
    for number in range(24):
        mask.save(f"drawings/{number}.png")
        image.save(f"colored/{number}.png")


@pytest.mark.slow
@pytest.mark.usefixtures("few_pairs", "few_resamples", "capfdbinary")
def test_every_command_runs(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SearchBudget, "for_cost", lambda *arguments: SMALL_SEARCH)
    monkeypatch.setattr("imggen.engine.recognition.embedder.CENTER_SAMPLES", 4)
    assert len(COMMANDS) >= 10 and image_folder == Path.cwd() / "imgs"
    make_readers_files()
    trained = False
    for command in COMMANDS:
        if command.startswith(("imggen export", "imggen explore")):
            continue  # see below, and tests/engine/explore/test_page.py
        if command.startswith("imggen train"):
            if trained and "--resume" not in command:
                command += " --force"
            command, trained = shortened(command), True
        elif command.startswith("imggen evaluate"):
            command = re.sub(r" -n \d+", "", fewer(command)) + " -n 10 --force"
            if command.startswith("imggen evaluate vae"):
                command = command.replace("./imgs", "./imgs/disc")  # half of the images: each needs a likelihood
        elif command.startswith("imggen stylize"):
            command += " --steps 2 --features imggen --force"
        elif command.startswith(("imggen embed", "imggen search", "imggen classify")):
            command = command.replace("./imgs", "./few") + " --force"
        elif command.startswith(("imggen segment", "imggen translate")):
            command += " --force"
        elif command.startswith(("imggen sample", "imggen interpolate", "imggen inpaint")):
            # Several commands of the README write the same file: each is meant for an empty folder.
            command = fewer(command) if "-o -" in command else fewer(command) + " --force"
            command += " -n 4" if "--near" in command else ""
        call(command)
    assert trained and Path("grid.png").exists()


@pytest.mark.slow
def test_the_python_in_it_runs() -> None:
    block = next(block for block in BLOCKS if "import imggen" in block)
    names: dict[str, Any] = {}
    exec(block, names)  # in a process of its own most of the time would go into importing torch
    result = re.findall(r"^(\w+) = ", block, re.MULTILINE)[-1]
    assert names[result].shape == (4, 4, 64, 64)


@pytest.mark.slow
def test_the_example_without_imggen_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call(next(command for command in COMMANDS if command.startswith("imggen export")))
    code = next(block for block in BLOCKS if "import onnxruntime" in block)
    subprocess.run([sys.executable, "-c", code], check=True)
    with Image.open("people.png") as image:
        assert image.size == (1024, 64) and image.mode == "RGBA"
        assert len(image.convert("RGB").getcolors(1 << 16) or []) > 100


def test_ci_runs_the_test_command_of_readme() -> None:
    command = next(line.strip() for block in BLOCKS for line in block.splitlines() if "pytest" in line)
    assert command == "pip install '.[test]' && pytest -n auto"
    script = ROOT / ".ci" / "run"
    if not script.exists() and not (ROOT / ".git").exists():
        pytest.skip("not a checkout: a source distribution has no .ci")
    subprocess.run(["bash", "-n", str(script)], check=True)
    lines = [line.strip() for line in script.read_text(encoding="utf-8").splitlines()]
    calls = [line for line in lines if not line.startswith("#") and re.search(r"\bpytest\b|\bpip\b", line)]
    assert [line.replace(" --quiet", "") for line in calls] == [command]


def test_every_preset_and_exit_code_is_named() -> None:
    from imggen.models import FAMILIES, presets

    for family in FAMILIES:
        for preset in presets(family):
            assert f"`{family}/{preset}`" in README
    for code in (0, 1, 2, 3, 4, 5, 129, 130, 143, 141):
        assert re.search(rf"^\| ([0-9]+, )*{code}(, [0-9]+)* \|", README, re.MULTILINE), code
