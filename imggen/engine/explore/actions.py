"""What the page does with its model: each action makes the options of a verb and calls the verb's engine function.

So a file that the page shows has the bytes that the command recorded in it writes. An action runs in a temporary
folder, as its current folder: the command has names without folders, and nothing is left on the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from imggen.engine import sampling
from imggen.engine.checkpoints import LoadedModel, load_model
from imggen.engine.options import ExploreOptions, SampleOptions
from imggen.engine.provenance import command
from imggen.errors import InterruptedRun
from imggen.io.image import settings_in
from imggen.io.metadata import read_settings_text
from imggen.models.base import Backend
from imggen.reporting import Silent


@dataclass(frozen=True)
class MadeFile:
    """A file that a verb wrote: its name, its bytes, and the command that writes it."""

    name: str
    data: bytes
    command: str


class _Attention(Silent):
    """Keeps the warnings of an action, and ends the action when the page ends."""

    def __init__(self, is_ending: threading.Event) -> None:
        self.warnings: list[str] = []
        self.is_ending = is_ending

    def warn(self, message: str) -> None:
        """Keep the message."""
        self.warnings.append(message)

    def update(self, completed: float, note: str = "") -> None:
        """Raise InterruptedRun if the page has ended."""
        if self.is_ending.is_set():
            raise InterruptedRun("the page has ended")


class Actions:
    """One model in memory, used by one request at a time; to be made and used within `keeping_models`."""

    def __init__(self, options: ExploreOptions, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.loaded: LoadedModel = load_model(options.model, weights=options.weights, device=options.device)
        self._lock = threading.Lock()
        self._is_ending = threading.Event()

    @cached_property
    def backend(self) -> Backend | None:
        """The model, if it is a generator."""
        return self.loaded.model if isinstance(self.loaded.model, Backend) else None

    def end(self, seconds: float) -> None:
        """End the action under way; wait `seconds` for it at most."""
        self._is_ending.set()
        if self._lock.acquire(timeout=seconds):
            self._lock.release()

    @property
    def _model(self) -> dict[str, Any]:
        """The options that name the model."""
        return {"model": self.options.model, "weights": self.options.weights, "device": self.options.device}

    @contextmanager
    def _working(self) -> Iterator[_Attention]:
        """Be the one action that runs, in a folder of its own; yields the reporter for it."""
        with self._lock, TemporaryDirectory(dir=self.folder) as place, chdir(place):
            yield _Attention(self._is_ending)

    def sample(
        self, *, first: int, count: int, label: str | None, sampling_options: Mapping[str, Any]
    ) -> tuple[list[MadeFile], str]:
        """Files of the seeds from `first` on, and the command that writes them all. Raises UsageError."""
        options = SampleOptions(
            **self._model, **sampling_options, seed=first, count=count, label=label, output="samples/"
        )
        with self._working() as reporter:
            sampling.run(options, reporter)
            files = [_made(path) for path in sorted(Path("samples").iterdir())]
        return files, command("sample", options)

    def sample_near(
        self, image: MadeFile, *, count: int, seed: int, temperature: float, label: str | None
    ) -> MadeFile:
        """One file: the image, and samples near it. Raises UsageError and DataError."""
        near = Path(image.name)
        options = SampleOptions(
            **self._model, near=near, count=count, seed=seed, temperature=temperature, label=label, output="near.png"
        )
        with self._working() as reporter:
            near.write_bytes(image.data)
            sampling.run(options, reporter)
            return _made(Path(options.output))


def _made(path: Path) -> MadeFile:
    """A file that was just written, with the command that it records."""
    recorded = settings_in(read_settings_text(path)) or {}
    return MadeFile(path.name, path.read_bytes(), str(recorded.get("command", "")))


def names_of(files: Sequence[MadeFile]) -> list[str]:
    """The names of files without their endings."""
    return [Path(file.name).stem for file in files]
