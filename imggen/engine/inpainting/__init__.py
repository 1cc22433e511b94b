"""imggen inpaint: fill the masked region of images; unmasked pixels keep their bits (in lossless formats).

`run` and `dry_run` check the options and read every image and mask before torch is imported, so that a refusal comes
at once.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from imggen.engine.inpainting.inputs import InpaintInput, MaskedImages, check_output, find_inputs
from imggen.engine.options import InpaintOptions
from imggen.engine.seeds import seed_range
from imggen.errors import UsageError
from imggen.reporting import Reporter, Silent


def run(options: InpaintOptions, reporter: Reporter) -> dict[str, Any]:
    """Fill and write the images; returns the paths and, for each image, the fraction that was masked.

    Raises UsageError, DataError, CheckpointError and DeviceError; nothing is written if an image or a mask is bad.
    """
    images = MaskedImages(options, check(options, reporter), reporter)
    from imggen.engine.inpainting.inpaint import inpaint

    return inpaint(options, images, reporter)


def dry_run(options: InpaintOptions, reporter: Reporter) -> dict[str, Any]:
    """Return what `run` would do, without filling an image. Raises as `run` does."""
    images = MaskedImages(options, check(options, reporter), reporter)
    from imggen.engine.inpainting.inpaint import describe_plan

    return describe_plan(options, images, reporter)


def check(options: InpaintOptions, reporter: Reporter | None = None) -> list[InpaintInput]:
    """Raise UsageError or DataError for what can be refused without reading an image; returns the files to read."""
    check_output(options)
    if options.method == "classical" and find_spec("skimage") is None:
        raise UsageError("--method classical needs scikit-image", "pip install 'imggen[classical]'")
    if options.method == "model" and options.model is None:
        raise UsageError("no model was given", "imggen inpaint MODEL …, or --method classical")
    if options.mask is None and not options.boxes and not options.from_alpha and not any(options.expand):
        raise UsageError("no mask was given", "--mask FILE, --box X,Y,W,H, --mask-from-alpha or --expand N")
    if options.feather and (options.from_alpha or any(options.expand)):
        raise UsageError("--feather needs pixels under the mask, and here there are none", "leave --feather out")
    seed_range(options.seed, options.count)
    return find_inputs(options, reporter or Silent())
