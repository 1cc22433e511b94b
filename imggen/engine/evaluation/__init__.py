"""`imggen evaluate`: refuses what cannot succeed before torch is imported, then compares images with the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imggen.data.cache_dir import expand_user
from imggen.data.scan import is_set_of_archives, keeping_listings, refuse_own_targets
from imggen.engine.options import EvaluateOptions
from imggen.engine.outputs import refuse_file
from imggen.errors import DataError, UsageError
from imggen.io.checkpoint import read_header
from imggen.io.model_paths import find_weights, holds_weights, shipped_weights
from imggen.models import CLASSIFIER, GENERATOR, SEGMENTER, TRAINED, TRANSLATOR, Kind, kind_of
from imggen.models.pretrained import PRETRAINED
from imggen.reporting import Reporter

MIN_IMAGES_TO_COMPARE = 10


def check(options: EvaluateOptions) -> None:
    """Refuse too few images, options that do not apply, and to overwrite a report. Raises UsageError and DataError."""
    if options.count < MIN_IMAGES_TO_COMPARE:
        raise UsageError(
            f"{options.count} images are too few to compare",
            f"-n {MIN_IMAGES_TO_COMPARE} or more; 10,000 give small intervals",
        )
    if not is_image_source(options):
        if options.size is not None:
            raise UsageError("--size does not apply to a model, which has its own size", "leave --size out")
    elif options.masks is not None or options.source is not None:
        flag = "--from" if options.masks is None else "--masks"
        raise UsageError(f"{options.model} is a folder of images: {flag} does not apply", "leave it out")
    elif options.sampling.changed():
        raise UsageError(f"{options.model} is a folder of images: sampling options do not apply", "leave them out")
    elif options.iw is not None:
        raise UsageError(f"{options.model} is a folder of images: it has no likelihood", "leave --iw out")
    if options.source is not None:
        refuse_own_targets(options.source, expand_user(options.data))
    if options.output is not None:
        _check_report(options.output, force=options.force)
    _check_features(options.features)


def _check_features(name: str | None) -> None:
    """Refuse a name that is neither a network's nor a file's."""
    if name in (None, PRETRAINED, "inception"):
        return
    path = Path(name.removeprefix("inception:"))
    if not path.is_file():
        raise DataError(f"there are no features {path}", "--features pretrained, inception, inception:FILE or a file")


def _check_report(path: Path, *, force: bool) -> None:
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"the report is an HTML file, not '{path.name}'", "-o report.html")
    refuse_file(path, force)


def is_image_source(options: EvaluateOptions) -> bool:
    """Whether MODEL is a folder or an archive of images rather than a model."""
    path = Path(options.model)
    if options.weights is not None or options.model in {*TRAINED, *shipped_weights()}:
        return False
    return not holds_weights(path) if path.is_dir() else is_set_of_archives(options.model)


@keeping_listings()
def run(options: EvaluateOptions, reporter: Reporter) -> dict[str, Any]:
    """Compare; returns every metric with its interval, and the same metrics of held-out images as the floor.

    Errors as in `imggen.errors`.
    """
    check(options)
    kind = None if is_image_source(options) else _kind_of_model(options)
    if kind == CLASSIFIER:
        from imggen.engine.evaluation.classifier import evaluate_classifier

        return evaluate_classifier(options, reporter)
    if kind == SEGMENTER:
        from imggen.engine.evaluation.segmentation import evaluate_segmentation

        return evaluate_segmentation(options, reporter)
    if kind == TRANSLATOR:
        from imggen.engine.evaluation.translation import evaluate_translation

        return evaluate_translation(options, reporter)
    from imggen.engine.evaluation import evaluate

    return evaluate.evaluate(options, reporter)


def _kind_of_model(options: EvaluateOptions) -> Kind | None:
    """What MODEL does, None for an unknown family. Raises CheckpointError; UsageError for options it has not."""
    path, _ = find_weights(options.model, weights=options.weights, families=TRAINED)
    family = read_header(path, kind="weights").document.get("config", {}).get("family")
    if family not in TRAINED:
        return None
    kind = kind_of(family)
    for its_kind, flag, value, refusal in (
        (SEGMENTER, "--masks", options.masks, "a segmentation model is compared with masks"),
        (TRANSLATOR, "--from", options.source, "a translator is compared by what it makes of images"),
    ):
        if kind == its_kind and value is None:
            raise UsageError(refusal, f"{flag} names their folder")
        if kind != its_kind and value is not None:
            raise UsageError(f"{path} is a {kind.noun}: {flag} does not apply", "leave it out")
    if kind != GENERATOR:
        others = (name for name in ("iw", "features") if getattr(options, name) is not None)
        given = [name for name in (*options.sampling.changed(), *others) if (kind, name) != (TRANSLATOR, "features")]
        if given:
            raise UsageError(f"{path} is a {kind.noun}: --{given[0].replace('_', '-')} does not apply", "leave it out")
    return kind
