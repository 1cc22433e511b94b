"""The options of `imggen embed`, `imggen search` and `imggen classify`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imggen.engine.options.shared import IMAGES, MODEL, OUTPUT, MachineOptions
from imggen.errors import UsageError
from imggen.models.pretrained import PRETRAINED
from imggen.option import REQUIRED, argument, option

RESULT = "Result"
SOURCE = "File, folder, .zip or .tar"


@dataclass(frozen=True, kw_only=True)
class SeeingOptions(MachineOptions):
    """What sees the images: a model, or with `features` a network trained on photographs. Raises UsageError."""

    model: str | None = argument(None, MODEL, metavar="MODEL")
    features: str | None = option(
        None,
        "pretrained: for photographs, in place of MODEL",
        panel=IMAGES,
        choices=(PRETRAINED,),
        metavar="NAME",
    )
    weights: Path | None = option(None, "Checkpoint to load in place of MODEL's own", panel=IMAGES, metavar="FILE")

    def __post_init__(self) -> None:
        """Check the values, and that there is one model or network."""
        super().__post_init__()
        if self.model is None and self.features is None:
            raise UsageError("a MODEL is missing", "such as vae; for photographs --features pretrained in its place")
        if self.features is not None and (self.model is not None or self.weights is not None):
            given = "--weights" if self.model is None else self.model
            raise UsageError(f"--features takes the place of a model: it does not go with {given}", "leave one out")


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(SeeingOptions):
    """Images to turn into vectors, and the model that sees them."""

    image: str = option(REQUIRED, SOURCE, panel=IMAGES, metavar="SOURCE")
    output: str = option(
        "vectors.safetensors",
        "File: .safetensors, .npz or .csv",
        panel=OUTPUT,
        flags=("--output", "-o"),
        metavar="FILE",
    )


@dataclass(frozen=True, kw_only=True)
class SearchOptions(SeeingOptions):
    """Images to search, and what for: images like the queries, or duplicates."""

    data: str = option(REQUIRED, f"Where to search: {SOURCE.lower()}", panel=IMAGES, metavar="SOURCE")
    image: str | None = option(None, "Image to search for, or a folder of them", panel=IMAGES, metavar="SOURCE")
    duplicates: bool = option(False, "Find groups of near-duplicates", panel=IMAGES)
    count: int | None = option(
        None, "Most results for each image", panel=RESULT, flags=("--count", "-k"), low=1, chosen="12"
    )
    above: float | None = option(
        None, "Least similarity, -1 to 1", panel=RESULT, low=-1.0, high=1.0, chosen="none; 0.98 for duplicates"
    )
    own: bool = option(False, "Also find the image itself", panel=RESULT, flags=("own", "--self"))
    mirror: bool = option(False, "Also find mirrored copies", panel=RESULT)
    paths: bool = option(
        False, "Print paths only; of duplicates all but the ones to keep", panel=RESULT, recorded=False
    )
    print0: bool = option(False, "The same, a NUL after each, for xargs -0", panel=RESULT, recorded=False)
    output: Path | None = option(
        None, "Image that shows the results", panel=OUTPUT, flags=("--output", "-o"), metavar="FILE"
    )

    def __post_init__(self) -> None:
        """Check the values, and that there is something to search for."""
        super().__post_init__()
        if (self.image is None) != self.duplicates:
            raise UsageError("search needs an image, or --duplicates", "--image q.png, or --duplicates without it")
        for flag, given in (("--self", self.own), ("--mirror", self.mirror)):
            if self.duplicates and given:
                raise UsageError(f"{flag} is for searches by an image", f"leave {flag} or --duplicates out")
        if self.duplicates and self.count is not None:
            raise UsageError("-k is for searches by an image: groups are shown whole", "leave -k or --duplicates out")


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(MachineOptions):
    """Images to label by the classes of a model."""

    model: str = argument("classify", MODEL, metavar="MODEL")
    image: str = option(REQUIRED, SOURCE, panel=IMAGES, metavar="SOURCE")
    weights: Path | None = option(None, "Checkpoint to load in place of MODEL's own", panel=IMAGES, metavar="FILE")
    top: int = option(1, "Most likely classes of each image", panel=RESULT, low=1)
    above: float = option(0.0, "Leave the label empty below this probability", panel=RESULT, low=0.0, high=1.0)
    uniform: bool = option(False, "Do not favor classes that were frequent in training", panel=RESULT)
    output: str = option("-", "CSV file; -: stdout", panel=OUTPUT, flags=("--output", "-o"), metavar="FILE")
