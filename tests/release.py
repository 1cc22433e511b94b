"""The release check: the wheel in a fresh environment of each Python, and with the lowest stated dependencies.

    python tests/release.py --python python3.12 --python python3.13
    python tests/release.py --lowest --tests

For each interpreter: build the wheel, install it without extras, and run every verb in an empty folder. `--lowest` pins
each dependency to the lowest version that pyproject.toml states. `--tests` also installs the extra `test` and runs the
tests that are not slow. Needs an index to install from, and some 6 GB of disk for each environment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAKE_IMAGES = """
import numpy, PIL.Image, pathlib
random = numpy.random.default_rng(0)
for label in ("a", "b"):
    folder = pathlib.Path("imgs", label); folder.mkdir(parents=True)
    for index in range(40):
        pixels = random.integers(0, 255, (4, 4, 3), dtype=numpy.uint8).repeat(4, 0).repeat(4, 1)
        PIL.Image.fromarray(pixels).save(folder / f"{index}.png")
PIL.Image.fromarray(pixels).save("x.png")
"""
FAMILIES = ("gan", "vae", "transformer")
TRAIN = "--data imgs --size 16 --images 128 --batch 16"
# Each command line with the exit code and the file that it must leave.
COMMANDS: tuple[tuple[str, int, str], ...] = (
    ("--version", 0, ""),
    ("--help", 0, ""),
    ("models", 0, ""),
    *((f"sample {family} -n 4 --seed 1 -o {family}.png", 0, f"{family}.png") for family in FAMILIES),
    ("sample gan -n 5 -o out/", 0, "out"),
    ("interpolate gan --seeds 3,8 --frames 8 -o walk.gif", 0, "walk.gif"),
    ("interpolate vae --seeds 3,8 --frames 8 -o walk.webp", 0, "walk.webp"),
    ("interpolate gan --seeds 3,8 --frames 8 -o walk.mp4", 2, ""),
    ("inpaint vae --image x.png --box 2,2,8,8 -o y.png", 0, "y.png"),
    ("inpaint --method classical --image x.png --box 2,2,8,8 -o z.png", 2, ""),
    ("info y.png", 0, ""),
    *((f"train {family} {TRAIN} -o run-{family}", 0, f"run-{family}/weights.safetensors") for family in FAMILIES),
    ("train gan --data imgs --resume --images 192 -o run-gan", 0, "run-gan/state.safetensors"),
    ("sample run-gan -n 4 -o own.png", 0, "own.png"),
    ("info run-gan", 0, ""),
    ("evaluate run-gan --data imgs -n 40 -o report.html", 0, "report.html"),
)


def lowest_versions() -> list[str]:
    """The dependencies of pyproject.toml, each pinned to its lowest version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [requirement.replace(">=", "==") for requirement in project["dependencies"]]


def run(words: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, without this process's own PYTHONPATH."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        words, cwd=folder, env=inherited | environment, capture_output=True, text=True, check=False, timeout=1800
    )


def must(words: list[str], folder: Path) -> str:
    """Run a command that must succeed; returns its stdout."""
    result = run(words, folder)
    if result.returncode:
        sys.exit(f"{' '.join(words)}: exit {result.returncode}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}")
    return result.stdout


def check_interpreter(python: str, wheel: Path, *, lowest: bool, tests: bool) -> list[str]:
    """Install the wheel for one interpreter and run all commands; returns what went wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        must([python, "-m", "venv", "venv"], folder)
        executable = folder / "venv" / "bin" / "python"
        pins = lowest_versions() if lowest else []
        must([str(executable), "-m", "pip", "install", "--quiet", str(wheel), *pins], folder)
        listed = must([str(executable), "-m", "pip", "list", "--format=freeze"], folder).split()
        named = ("torch==", "torchvision==", "numpy==", "pillow==", "typer==", "rich==", "safetensors==")
        version = must([str(executable), "-V"], folder).strip()
        print(version, *(line for line in listed if line.startswith(named)), flush=True)

        faults = []
        work = folder / "work"
        work.mkdir()
        must([str(executable), "-c", MAKE_IMAGES], work)
        program = str(folder / "venv" / "bin" / "imggen")
        for line, code, file in COMMANDS:
            # Old releases of torch leave temporary folders to Python's exit, which warns of that.
            environment = {"IMGGEN_CACHE": str(folder / "cache"), "PYTHONWARNINGS": "error,ignore::ResourceWarning"}
            result = run([program, *line.split()], work, **environment)
            right = result.returncode == code and "Traceback" not in result.stderr
            if not right or (file and not (work / file).exists()):
                faults.append(f"imggen {line}: exit {result.returncode}, {result.stderr.strip()[-400:]}")
            print("ok   " if right else "FAULT", line, flush=True)
        if tests:
            must([str(executable), "-m", "pip", "install", "--quiet", f"{wheel}[test]", *pins], folder)
            result = run([str(executable), "-m", "pytest", "-q", "-n", "auto", "-m", "not slow and not lint"], ROOT)
            print(result.stdout.strip().splitlines()[-1], flush=True)
            if result.returncode:
                faults.append(result.stdout[-4000:])
        return faults


def main() -> None:
    """Check every interpreter given; the exit code is 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="an interpreter; may be repeated; default: this one")
    parser.add_argument("--lowest", action="store_true", help="pin the dependencies to their lowest stated versions")
    parser.add_argument("--tests", action="store_true", help="also run the tests that are not slow")
    parser.add_argument("--wheel", type=Path, help="check this wheel instead of building one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        wheel = options.wheel
        if wheel is None:
            must([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", name, str(ROOT)], ROOT)
            wheel = next(Path(name).glob("*.whl"))
        faults = []
        for python in options.python or [sys.executable]:
            faults += check_interpreter(python, wheel.resolve(), lowest=options.lowest, tests=options.tests)
    print("\n".join(faults) or "everything is as it should be")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
