"""What the page does with its model: each action makes the options of a verb and calls the verb's engine function.

So a file that the page shows has the bytes that the command recorded in it writes. An action runs in a temporary
folder, as its current folder: the command has names without folders, and nothing is left on the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from imggen.engine import inpainting, interpolation, mapping, recognition, sampling
from imggen.engine.checkpoints import LoadedModel, load_model
from imggen.engine.directions import find_directions
from imggen.engine.noise import SampleSpec, noise_for
from imggen.engine.options import (
    ClassifyOptions,
    ExploreOptions,
    InpaintOptions,
    InterpolateOptions,
    SampleOptions,
    SearchOptions,
    SegmentOptions,
    TranslateOptions,
)
from imggen.engine.provenance import command
from imggen.errors import InterruptedRun
from imggen.io.image import settings_in
from imggen.io.metadata import read_settings_text
from imggen.models.base import Backend, Model
from imggen.reporting import Silent


@dataclass(frozen=True)
class PageFile:
    """A file that a verb wrote: its name, its bytes, and the command that writes it; none if it was dropped."""

    name: str
    data: bytes
    command: str = ""


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
        self.model: Model = self.loaded.model
        self._lock = threading.Lock()
        self._is_ending = threading.Event()

    @cached_property
    def backend(self) -> Backend | None:
        """The model, if it is a generator."""
        return self.model if isinstance(self.model, Backend) else None

    def end(self, seconds: float) -> None:
        """End the action under way; wait `seconds` for it at most."""
        self._is_ending.set()
        if self._lock.acquire(timeout=seconds):
            self._lock.release()

    @property
    def _named(self) -> dict[str, Any]:
        """The options that name the model."""
        return {"model": self.options.model, "weights": self.options.weights, "device": self.options.device}

    @contextmanager
    def _working(self, *files: PageFile) -> Iterator[_Attention]:
        """Be the one action that runs, in a folder of its own with these files; yields the reporter for it."""
        with self._lock, TemporaryDirectory(dir=self.folder) as place, chdir(place):
            for file in files:
                Path(file.name).write_bytes(file.data)
            yield _Attention(self._is_ending)

    def sample(
        self, *, first: int, count: int, label: str | None, sampling_options: Mapping[str, Any]
    ) -> tuple[list[PageFile], str]:
        """Files of the seeds from `first` on, and the command that writes them all. Raises UsageError."""
        options = SampleOptions(
            **self._named, **sampling_options, seed=first, count=count, label=label, output="samples/"
        )
        with self._working() as reporter:
            sampling.run(options, reporter)
            files = [_made(path) for path in sorted(Path("samples").iterdir())]
        return files, command("sample", options)

    def sample_near(self, image: PageFile, **options: Any) -> PageFile:
        """One file: the image, and samples near it. Raises UsageError and DataError."""
        near = SampleOptions(**self._named, **options, near=Path(image.name), output="near.png")
        with self._working(image) as reporter:
            sampling.run(near, reporter)
            return _made(Path(near.output))

    def directions(self, seed: int) -> list[tuple[str, float]]:
        """For each direction of the model its name, and where the noise of a seed lies along it.

        They are found, which takes seconds, if they are not in the cache. Raises UsageError.
        """
        with self._working() as reporter:
            found = find_directions(self.loaded, reporter)
            noise, _ = noise_for([SampleSpec(seed)], self.loaded.backend)
            values = found.values(noise)[0].tolist()
        return [(known.name, value) for known, value in zip(found.known, values, strict=True)]

    def walk(self, **options: Any) -> PageFile:
        """An animation along a path through seeds. Raises UsageError."""
        path = InterpolateOptions(**self._named, **options)
        with self._working() as reporter:
            interpolation.run(path, reporter)
            return _made(Path(path.output))

    def fill(self, image: PageFile, mask: PageFile, **options: Any) -> tuple[list[PageFile], str, list[str]]:
        """Fills of an image where the mask is white, the command that makes them all, and warnings.

        Raises UsageError and DataError.
        """
        fill = InpaintOptions(
            **self._named, **options, image=Path(image.name), mask=Path(mask.name), output="filled.png"
        )
        with self._working(image, mask) as reporter:
            result = inpainting.run(fill, reporter)
            files = [_made(Path(path)) for path in result["paths"]]
        return files, command("inpaint", fill, seed=fill.seed, output=fill.output), reporter.warnings

    def search(self, image: PageFile, data: str, **options: Any) -> tuple[list[dict[str, Any]], str]:
        """The images of `data` most similar to an image, each with path and score, and the command that finds them.

        Raises UsageError and DataError.
        """
        shown = SearchOptions(**self._named, **options, data=data, image=image.name)
        absolute = replace(shown, data=str(Path(data).absolute()))  # the action has another current folder
        with self._working(image) as reporter:
            (query,) = recognition.run_search(absolute, reporter)["queries"]
        return query["matches"], command("search", shown, image=shown.image)

    def classify(self, image: PageFile, top: int) -> tuple[list[dict[str, Any]], str]:
        """The most likely classes of an image, each with label and probability, and the command that finds them."""
        options = ClassifyOptions(**self._named, image=image.name, top=top)
        with self._working(image) as reporter:
            (found,) = recognition.run_classify(options, reporter)["labels"]
        return found["classes"], command("classify", options)

    def segment(self, image: PageFile) -> tuple[list[PageFile], list[dict[str, Any]], str]:
        """The mask of an image and its overlay, the share and box of each class, and the command that writes them."""
        options = SegmentOptions(**self._named, image=image.name, overlay=True)
        with self._working(image) as reporter:
            result = mapping.run_segment(options, reporter)
            files = [_made(Path(path)) for path in result["paths"]]
        return files, result["images"][0]["classes"], command("segment", options)

    def translate(self, image: PageFile, strength: float, seed: int) -> PageFile:
        """The translation of an image. Raises UsageError and DataError."""
        options = TranslateOptions(**self._named, image=image.name, strength=strength, seed=seed)
        with self._working(image) as reporter:
            mapping.run_translate(options, reporter)
            return _made(Path(options.output))


def _made(path: Path) -> PageFile:
    """A file that was just written, with the command that it records."""
    recorded = settings_in(read_settings_text(path)) or {}
    return PageFile(path.name, path.read_bytes(), str(recorded.get("command", "")))
