"""imggen embed, search and classify: what a model sees in images, compared or named.

Each function checks its options before torch is imported, so that a refusal comes at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imggen.engine.options import ClassifyOptions, EmbedOptions, SearchOptions
from imggen.engine.outputs import refuse_file
from imggen.errors import UsageError
from imggen.io.image import format_of
from imggen.reporting import Reporter

VECTOR_ENDINGS = (".safetensors", ".npz", ".csv")


def run_embed(options: EmbedOptions, reporter: Reporter) -> dict[str, Any]:
    """Write a vector for each image; returns the path, how many, their length, the model's hash and the seconds.

    Raises UsageError, DataError, CheckpointError and DeviceError; so do the other functions here.
    """
    path = Path(options.output)
    if path.suffix.lower() not in VECTOR_ENDINGS:
        raise UsageError(f"{path} is no file of vectors", f"endings: {', '.join(VECTOR_ENDINGS)}")
    refuse_file(path, options.force)
    from imggen.engine.recognition.embed import embed

    return embed(options, reporter)


def run_search(options: SearchOptions, reporter: Reporter) -> dict[str, Any]:
    """Find images: `queries`, each with its matches (path and score), or with `duplicates` the `groups` of paths."""
    if options.output is not None:
        format_of(options.output)
        refuse_file(options.output, options.force)
    from imggen.engine.recognition.search import search

    return search(options, reporter)


def run_classify(options: ClassifyOptions, reporter: Reporter) -> dict[str, Any]:
    """Label images: `labels`, for each its path and its most likely classes with their probabilities."""
    if options.output != "-":
        if Path(options.output).suffix.lower() != ".csv":
            raise UsageError(f"{options.output} is no .csv file", "labels are written as CSV: -o labels.csv")
        refuse_file(Path(options.output), options.force)
    from imggen.engine.recognition.classify import classify

    return classify(options, reporter)
