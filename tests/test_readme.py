"""README is kept honest: every command in it runs, and its Python too."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from imggen.cli.app import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:^    .*\n)+", README, re.MULTILINE)
COMMANDS = [line.strip() for block in BLOCKS for line in block.splitlines() if line.startswith("    imggen ")]
SMALL = ["--images", "32", "--batch", "16", "--size", "16", "--width", "8", "--max-width", "16"]


def call(command: str) -> None:
    words = shlex.split(command)[1:]
    with_output = ">" in words
    if with_output:
        words = words[: words.index(">")]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert not caught.value.code, command


def shortened(command: str) -> str:
    """The same training, over in a second: README's budgets are for real pictures."""
    command = re.sub(r" --(minutes|size|images) \S+", "", command)
    if "--resume" in command:
        return command.replace("--resume", "--resume --images 48")
    return shlex.join([*shlex.split(command), *SMALL])


def readers_own_files() -> None:
    """Pictures and masks that README's reader has."""
    picture, hole = Image.new("RGB", (16, 16), "navy"), Image.new("L", (16, 16))
    picture.paste("white", (3, 3, 12, 12))
    hole.paste(255, (6, 6, 8, 14))
    Path("photos").mkdir()
    Path("masks").mkdir()
    for name in ("a.png", "b.png", "x.png", "scan.tif", "photos/1.png"):
        picture.save(name)
    for name in ("m.png", "scratches.png", "masks/1.png"):
        hole.save(name)


def test_every_command_runs(image_folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert len(COMMANDS) >= 10 and image_folder == Path.cwd() / "imgs"
    readers_own_files()
    trained = False
    for command in COMMANDS:
        if command.startswith("imggen train"):
            if trained and "--resume" not in command:
                command += " --force"
            command, trained = shortened(command), True
        elif command.startswith("imggen evaluate"):
            command = re.sub(r" -n \d+", "", command) + " -n 50"
        elif command.startswith(("imggen sample", "imggen interpolate", "imggen inpaint")):
            # README's outputs repeat: each stands for a new user's empty folder.
            command = command if "-o -" in command else command + " --force"
        call(command)
    assert trained and Path("grid.png").exists()


def test_the_python_in_it_runs() -> None:
    code = next(block for block in BLOCKS if "import imggen" in block)
    code = "\n".join(line[4:] for line in code.splitlines()) + "\nprint(tuple(pictures.shape))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(4, 1, 32, 32)"


def test_ci_runs_the_test_command_of_readme() -> None:
    tests = next(block for block in BLOCKS if "pytest" in block).strip()
    assert tests == "pip install '.[test]' && pytest"
    script = ROOT / ".ci" / "run"
    assert not script.exists() or tests.partition(" && ")[0].removeprefix("pip install ") in script.read_text("utf-8")


def test_every_preset_and_exit_code_is_named() -> None:
    from imggen.models import FAMILIES, presets

    for family in FAMILIES:
        for preset in presets(family):
            assert f"`{family}/{preset}`" in README
    for code in (0, 1, 2, 3, 4, 5, 129, 130, 143, 141):
        assert re.search(rf"^\| ([0-9]+, )*{code}(, [0-9]+)* \|", README, re.MULTILINE), code
