"""Fill the disk under each verb, and see that it ends with exit code 3, nothing lost and nothing left over.

    sudo python -m tests.faults.disk
    sudo python -m tests.faults.disk train resume    # the cases whose names begin so

A full disk is a tmpfs of a few hundred kilobytes, so this needs root. For each verb a command runs with more and more
space, from none to what it needs. As long as it fails, the exit code must be 3, the message must name the file, files
that were there must be unchanged, and no unfinished file may be left. Prints a table; exit code 1 if anything is wrong.
`test_disk.py` has a short part, which needs no root.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imggen.engine.checkpoints import load_model
from imggen.errors import ImggenError
from tests.cli.forks import Fork, Server
from tests.faults.runs import BATCH, TARGETS, make_images, make_targets, read_state, train_words

SPACES = (16, 100, 400, 1600, 4000)  # KiB free
KINDS = (("classify", "classes"), ("segment", "imgs"), ("translate", "imgs"))  # and the folders of their data
TRAINING = train_words("gan", "disk/run", 2 * BATCH)


@dataclass(frozen=True)
class Case:
    """A command that writes to `disk/`; `prepare` makes the files that must survive, `cache` is where it decodes."""

    name: str
    words: list[str]
    prepare: list[str] | None = None
    cache: str = "cache"


def cases_of(family: str, data: str) -> tuple[Case, Case]:
    """A training of this family, and its resuming."""
    words, more = (train_words(family, "disk/run", steps * BATCH, data=data) for steps in (2, 4))
    return Case(f"train {family}", words), Case(f"resume {family}", [*more, "--resume"], prepare=words)


CASES = (
    Case("decode", [*TRAINING[:4], "-o", "run", *TRAINING[6:], "--force", "--cache", "disk"], cache="disk/cache"),
    Case("train", TRAINING),
    Case("resume", [*train_words("gan", "disk/run", 4 * BATCH), "--resume"], prepare=TRAINING),
    *(case for family, data in KINDS for case in cases_of(family, data)),
    Case("sample folder", ["sample", "gan", "--seed", "1", "-n", "400", "-o", "disk/out/", "--resume"]),
    Case("sample grid", ["sample", "gan", "--seed", "1", "-n", "400", "-o", "disk/grid.png", "--force"],
         prepare=["sample", "gan", "--seed", "2", "-n", "4", "-o", "disk/grid.png"]),
    Case("animate gif", ["interpolate", "gan", "--seeds", "1-4", "--frames", "200", "-o", "disk/a.gif", "--force"]),
    Case("animate png", ["interpolate", "gan", "--seeds", "1-4", "--frames", "200", "-o", "disk/a.png", "--force"]),
    Case("animate mp4", ["interpolate", "gan", "--seeds", "1-4", "--frames", "200", "-o", "disk/a.mp4", "--force"]),
    Case("animate folder", ["interpolate", "gan", "--seeds", "1-4", "--frames", "200", "-o", "disk/f/", "--force"]),
    Case("inpaint", ["inpaint", "--method", "classical", "--image", "noise.png", "--box", "4,4,8,8",
                     "-o", "disk/fill.png", "--force"],
         prepare=["sample", "gan", "--seed", "2", "-n", "4", "-o", "disk/fill.png"]),
    Case("report", ["evaluate", "gan", "--data", "imgs32", "-n", "40", "-o", "disk/report.html", "--force"]),
)  # fmt: skip


def hashes(folder: Path) -> dict[str, str]:
    """The hash of every file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def with_disk(kilobytes: int, free: int, work: Callable[[Path, int], None]) -> None:
    """Call `work` with a small disk mounted at `disk`, and with `free`."""
    disk = Path("disk")
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)], check=True)
    try:
        work(disk, free)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, free: int) -> None:
    """Leave so many kilobytes free."""
    available = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with (disk / "filler").open("wb") as file:
        file.write(bytes(max(0, available - free * 1024)))


def try_case(server: Server, case: Case) -> tuple[list[int], list[str]]:
    """Exit codes with the growing spaces, and what is wrong."""
    codes: list[int] = []
    wrong: list[str] = []

    def once(disk: Path, free: int) -> None:
        if case.prepare is not None and Fork(server, *case.prepare).wait() != 0:
            wrong.append("preparing failed")
            return
        fill(disk, free)
        before = hashes(disk)
        process = Fork(server, *case.words, IMGGEN_CACHE=str(Path(case.cache).absolute()))
        codes.append(process.wait())
        after = hashes(disk)
        if codes[-1] == 0:
            return
        if codes[-1] != 3 or "error: " not in process.err or "Traceback" in process.err:
            wrong.append(f"{free} KiB: exit code {codes[-1]}: {process.err[-300:]}")
        # What failed may have replaced a checkpoint by a newer one, which must be valid; all else stays as it was.
        changed = [name for name in before if after.get(name) != before[name]]
        if changed and not case.name.startswith("resume"):
            wrong.append(f"{free} KiB: changed {changed}")
        if case.name.startswith("resume"):
            try:
                load_model(str(disk / "run"), device="cpu")
                read_state(disk / "run")
            except ImggenError as error:
                wrong.append(f"{free} KiB: {error.message}")
        leftovers = [name for name in after if Path(name).name.startswith(".") and Path(name).name != ".lock"]
        if leftovers:
            wrong.append(f"{free} KiB: left over {leftovers}")

    for free in SPACES:
        with_disk(6000, free, once)
        if codes and codes[-1] == 0:
            break
    return codes, wrong


def main() -> int:
    """Print the table."""
    if os.geteuid() != 0:
        print("this needs root, to mount small disks")
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # unmount the disk
    server, failed = Server(), False
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_images(Path("imgs"), 200)
        make_images(Path("imgs32"), 60, 32)
        make_images(Path("classes"), classes=2)
        for family in TARGETS:
            make_targets(family)
        subprocess.run([sys.executable, "-c", MAKE_NOISE], check=True)
        for case in CASES:
            if sys.argv[1:] and not case.name.startswith(tuple(sys.argv[1:])):
                continue
            codes, wrong = try_case(server, case)
            failed = failed or bool(wrong) or 3 not in codes or codes[-1] != 0
            print(f"{case.name:18} exit codes with {SPACES[0]} KiB and more free: {codes}", *wrong, sep="\n    ")
            sys.stdout.flush()
        server.stop()
        os.chdir("/")
    return int(failed)


MAKE_NOISE = """
import numpy as np
from PIL import Image
Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)).save("noise.png")
"""

if __name__ == "__main__":
    sys.exit(main())
