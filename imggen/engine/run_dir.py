"""The files of a training run."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from imggen.engine.options import TrainOptions
from imggen.engine.outputs import check_writable
from imggen.errors import UsageError
from imggen.io.atomic import atomic_write

PREVIEW = re.compile(r"\d{6,}\.png")
HALF = re.compile(r"\.(weights|state|best)\.safetensors\.[0-9a-f]+\.part")


@dataclass(frozen=True)
class RunDir:
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


def check_run_output(options: TrainOptions) -> None:
    """Refuse to overwrite a run, to resume where there is none, or to log without a logger. Raises UsageError."""
    folder = RunDir(options.run)
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
