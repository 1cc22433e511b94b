"""What lies in a run's folder, and what may be overwritten; no torch, so that refusals come at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from imggen.engine.options import EvaluateOptions, InterpolateOptions, SampleOptions, TrainOptions
from imggen.errors import DataError, UsageError
from imggen.io.animation import animation_format, check_speed
from imggen.io.files import atomic_write
from imggen.io.image import format_of

FEWEST = 10  # pictures that can be compared
PREVIEW = re.compile(r"\d{6,}\.png")
HALF = re.compile(r"\.(weights|state|best)\.safetensors\.[0-9a-f]+\.part")
PATTERN = re.compile(r"[^%]*%(0\d{1,2})?d[^%]*")


@dataclass(frozen=True)
class RunFolder:
    """The files of one training run."""

    path: Path

    @property
    def weights(self) -> Path:
        """The averaged model, self-describing."""
        return self.path / "weights.safetensors"

    @property
    def best(self) -> Path:
        """The model whose pictures were nearest to the data's, by --evaluate-every."""
        return self.path / "best.safetensors"

    @property
    def state(self) -> Path:
        """Everything that --resume needs."""
        return self.path / "state.safetensors"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """Preview grids of fixed noise."""
        return self.path / "samples"

    def exists(self) -> bool:
        """Whether a run is here."""
        return any(path.exists() for path in (self.weights, self.state, self.metrics))

    def clear_logs(self) -> None:
        """Remove an old run's logs and previews; its weights and state stay until they are replaced."""
        self.metrics.unlink(missing_ok=True)
        for preview in self.samples.iterdir() if self.samples.is_dir() else ():
            if PREVIEW.fullmatch(preview.name):
                preview.unlink()
        shutil.rmtree(self.path / "tensorboard", ignore_errors=True)

    def clear_halves(self) -> None:
        """Remove what a killed process left of the files it was writing."""
        for left in self.path.glob(".*.part"):
            if HALF.fullmatch(left.name):
                left.unlink(missing_ok=True)

    def taken(self) -> Path | None:
        """A folder that a run would write into, and that holds something of somebody else's."""
        mine = (self.samples, self.path / "tensorboard")
        return next((path for path in mine if path.is_dir() and any(path.iterdir())), None)

    def write_config(self, settings: dict[str, Any]) -> None:
        """The resolved settings as TOML, in the names that --config takes."""
        lines = [f"{name} = {_toml(value)}" for name, value in settings.items() if value is not None]
        atomic_write(self.path / "config.toml", ("\n".join(lines) + "\n").encode("utf-8", "replace"))

    def append_metrics(self, record: dict[str, Any]) -> None:
        """One more line."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def cut_metrics(self, images: int) -> None:
        """Drop lines written after the state was saved: a resumed run writes them again."""
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # a line cut short by a kill
            if record.get("images", 0) <= images:
                kept.append(line + "\n")
        atomic_write(self.metrics, "".join(kept).encode())


def _toml(value: Any) -> str:
    # JSON's strings, numbers and booleans are TOML's too, but for DEL, and for characters as pairs of escapes.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def check_output(options: TrainOptions) -> None:
    """Refuse to overwrite a run, to resume where there is none, or to log without a logger. Raises UsageError."""
    folder = RunFolder(options.run)
    if options.tensorboard and find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs tensorboard", "pip install 'imggen[log]'")
    if options.run.exists() and not options.run.is_dir():
        raise UsageError(f"{options.run} is a file, not a folder", "-o names the run's folder")
    check_writable(options.run)
    if options.resume:
        if not folder.state.exists():
            raise UsageError(f"there is nothing to resume in {options.run}", "leave --resume out to start a run")
    elif folder.exists() and not options.force:
        raise UsageError(
            f"{options.run} already holds a run",
            "--resume continues it, --force replaces it, -o FOLDER keeps both",
        )
    elif (taken := folder.taken()) is not None and not folder.exists() and not options.force:
        raise UsageError(f"{taken} already holds something, and a run writes there", "-o FOLDER names another folder")


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to, or made, before any work is done. Raises DataError."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise DataError(f"{there} is a file, not a folder", "write elsewhere")
    if not os.access(there, os.W_OK | os.X_OK):
        raise DataError(f"{there} cannot be written to", "you may not write there: choose another folder")


def check_parent(path: Path) -> None:
    """Refuse a file in a folder that is not there, before any work is done. Raises UsageError."""
    parent = path.absolute().parent
    if not parent.exists():
        raise UsageError(f"there is no folder {path.parent}", "make it first, or write elsewhere")


def output_kind(output: str) -> str:
    """What `-o` asks for: "stdout", "pattern" (name-%05d.png), "grid" (one picture file) or "folder"."""
    if output == "-":
        return "stdout"
    if "%" in Path(output).name:
        return "pattern"
    return "grid" if Path(output).suffix and not output.endswith("/") else "folder"


def check_sample_output(options: SampleOptions) -> None:
    """Refuse to overwrite pictures or to fill a terminal with bytes. Raises UsageError."""
    kind = output_kind(options.output)
    path = Path(options.output)
    if kind == "stdout":
        if sys.stdout.isatty():
            raise UsageError("PNG bytes would fill the terminal", "pipe them: imggen sample … -o - > grid.png")
        return
    if kind != "folder":
        format_of(path)
    if kind == "pattern":
        if not PATTERN.fullmatch(path.name):
            raise UsageError(f"'{path.name}' needs one number, such as name-%05d.png")
        taken = _taken_by(path)
    elif kind == "grid":
        taken = path if path.exists() else None
    else:
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file, not a folder", "give a picture's name or another folder")
        taken = path if path.is_dir() and any(map(_seen, path.iterdir())) else None
    check_writable(path if kind == "folder" else path.parent)
    if kind == "grid":
        check_parent(path)
    if taken is not None and not options.force and not (options.resume and kind != "grid"):
        more = ", --resume draws what is missing" if kind != "grid" else ""
        raise UsageError(f"{taken} already exists", f"--force overwrites it{more}")


def _seen(path: Path) -> bool:
    """What a killed process left half-written takes no place."""
    return not (path.name.startswith(".") and path.name.endswith(".part"))


def _taken_by(pattern: Path) -> Path | None:
    head, tail = pattern.name.split("%", 1)
    tail = tail.split("d", 1)[-1]
    if not pattern.parent.is_dir():
        return None
    for path in pattern.parent.iterdir():
        middle = path.name[len(head) : len(path.name) - len(tail)]
        if path.name.startswith(head) and path.name.endswith(tail) and middle.isdigit():
            return path
    return None


def check_report(options: EvaluateOptions) -> None:
    """Refuse too few pictures, to overwrite a report, or to make one of another kind. Raises UsageError, DataError."""
    if options.count < FEWEST:
        raise UsageError(f"{options.count} pictures are too few to compare", f"-n {FEWEST} or more; 10,000 are steady")
    if options.output is None:
        return
    if options.output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"the report is an HTML file, not '{options.output.name}'", "-o report.html")
    if options.output.exists() and not options.force:
        raise UsageError(f"{options.output} already exists", "--force overwrites it")
    check_parent(options.output)
    check_writable(options.output.absolute().parent)


def exact_fps(fps: float) -> Fraction:
    """25 or 29.97 as a fraction that files can hold."""
    return Fraction(fps).limit_denominator(1001)


def check_walk_output(options: InterpolateOptions) -> None:
    """Refuse to overwrite frames, and formats and speeds that cannot be. Raises UsageError, DataError."""
    path, kind = Path(options.output), output_kind(options.output)
    if kind in ("stdout", "pattern"):
        raise UsageError("a walk is a file or a folder of frames", "-o walk.gif, or -o frames/")
    if kind == "folder":
        if options.strip:
            raise UsageError("a strip is one picture", "-o strip.png")
        refuse_folder(path, options.force)
        return
    if options.strip:
        format_of(path)
    else:
        check_speed(animation_format(path), exact_fps(options.fps))
    refuse_file(path, options.force)


def refuse_file(path: Path, force: bool) -> None:
    """Refuse to overwrite a file unasked, or to write where nothing can be. Raises UsageError, DataError."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a file", "give a file's name")
    check_parent(path)
    check_writable(path.absolute().parent)
    if path.exists() and not force:
        raise UsageError(f"{path} already exists", "--force overwrites it")


def refuse_folder(path: Path, force: bool) -> None:
    """Refuse to write into a folder that holds something, unasked. Raises UsageError, DataError."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not a folder", "give a file's name with an ending, or another folder")
    check_writable(path)
    if path.is_dir() and any(map(_seen, path.iterdir())) and not force:
        raise UsageError(f"{path} already exists", "--force writes into it")
