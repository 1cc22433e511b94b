"""The files of a training run, and when they may be overwritten."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imggen.documents import COUNT, DocumentError, read_fields, read_json
from imggen.engine.outputs import check_writable
from imggen.errors import UsageError
from imggen.io.atomic import atomic_write
from imggen.io.locks import lock_directory
from imggen.reporting import readable

PREVIEW_NAME = re.compile(r"\d{6,}\.png")
# What atomic writes leave behind when the process is killed, in the run's folder and in that of the previews.
PARTIAL_FILE_NAME = re.compile(
    r"\.((weights|state|best|directions)\.safetensors|config\.toml|metrics\.jsonl|\d{6,}\.png)\.[0-9a-f]{9,}\.part"
)


@dataclass(frozen=True)
class RunDir:
    """The files of one training run."""

    path: Path

    @property
    def weights(self) -> Path:
        """The averaged (EMA) model with its configuration."""
        return self.path / "weights.safetensors"

    @property
    def best(self) -> Path:
        """The checkpoint whose samples had the lowest distance to the data, kept by --evaluate-every."""
        return self.path / "best.safetensors"

    @property
    def state(self) -> Path:
        """Everything that --resume needs."""
        return self.path / "state.safetensors"

    @property
    def metrics(self) -> Path:
        """Losses and other metrics: one JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def directions(self) -> Path:
        """The directions of the weights' noise, if they were asked for."""
        return self.path / "directions.safetensors"

    @property
    def samples(self) -> Path:
        """Preview grids, all generated from the same noise."""
        return self.path / "samples"

    def exists(self) -> bool:
        """Whether the directory holds a run."""
        return any(path.exists() for path in (self.weights, self.state, self.metrics))

    def clear_logs(self) -> None:
        """Remove a previous run's logs and previews; its weights and state stay until they are replaced."""
        self.metrics.unlink(missing_ok=True)
        for preview in self.samples.iterdir() if self.samples.is_dir() else ():
            if PREVIEW_NAME.fullmatch(preview.name):
                preview.unlink()
        shutil.rmtree(self.path / "tensorboard", ignore_errors=True)

    def clear_partial_files(self) -> None:
        """Remove files that a killed process did not finish writing; only while the folder is locked."""
        for folder in (self.path, self.samples):
            for path in folder.glob(".*.part"):
                if PARTIAL_FILE_NAME.fullmatch(path.name) and path.is_file():
                    path.unlink(missing_ok=True)

    def foreign_dir(self) -> Path | None:
        """A subdirectory that a run would write to and that already holds files; None if there is none."""
        subdirs = (self.samples, self.path / "tensorboard")
        return next((path for path in subdirs if path.is_dir() and any(path.iterdir())), None)

    def check(self, *, resume: bool, force: bool) -> None:
        """Refuse to overwrite a run or other files unless `force`, and to resume without a run.

        Raises UsageError, and DataError if the directory cannot be written to.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file, not a folder", "-o names the run's folder")
        check_writable(self.path)
        if resume:
            if self.state.exists():
                return
            if self.exists():
                raise UsageError(f"the run in {self.path} has no {self.state.name}", "--force starts it again")
            raise UsageError(f"there is nothing to resume in {self.path}", "leave --resume out to start a run")
        elif force:
            return
        elif self.exists() and not self.state.exists():
            raise UsageError(
                f"{self.path} already holds a run, without {self.state.name}",
                "--force starts it again, -o FOLDER keeps it",
            )
        elif self.exists():
            raise UsageError(
                f"{self.path} already holds a run",
                "--resume continues it, --force replaces it, -o FOLDER keeps both",
            )
        elif (foreign := self.foreign_dir()) is not None:
            raise UsageError(
                f"{foreign} already holds files, and a run would write there", "use -o FOLDER for another folder"
            )

    def refuse_if_locked(self) -> None:
        """Raise UsageError if another process is training here. A training locks its folder once it has its data."""
        if self.path.is_dir():
            with lock_directory(self.path):
                pass

    def write_config(self, settings: dict[str, Any]) -> None:
        """Write the settings as TOML, under the names that --config reads.

        TOML is Unicode: a path that is not, as old names on a disk may be, stands there as a comment.
        """
        lines = []
        for name, value in settings.items():
            if value is not None:
                line = f"{name} = {_toml(value)}"
                lines.append(line if readable(line) == line else f"# not Unicode: {readable(line)}")
        atomic_write(self.path / "config.toml", ("\n".join(lines) + "\n").encode())

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Append one line to the metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def truncate_metrics(self, images: int) -> None:
        """Drop the lines written after the checkpoint at `images`: a resumed run writes them again."""
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = read_fields(read_json(line), {"images": COUNT})
            except DocumentError:
                continue  # an incomplete line of a killed process
            if record["images"] <= images:
                kept.append(line + "\n")
        atomic_write(self.metrics, "".join(kept).encode())


def _toml(value: Any) -> str:
    # JSON's strings, numbers and booleans are valid TOML, but for DEL, and for characters escaped as surrogate pairs.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
