"""The options of every verb: one dataclass each, the only list of options. Imports no torch, to keep --help fast.

A field made by `option` becomes a flag of `imggen VERB`, a `--config` key and an environment variable (cli/build.py),
is checked when the dataclass is made, and is part of the command recorded in files (provenance.py). So a new option is
one line in one of these files, and its use. None means: chosen when it is not given.
"""

from imggen.engine.options.explore import ExploreOptions
from imggen.engine.options.export import ExportOptions
from imggen.engine.options.inpainting import InpaintOptions
from imggen.engine.options.mapping import StylizeOptions
from imggen.engine.options.others import CacheOptions, EvaluateOptions, InfoOptions
from imggen.engine.options.recognition import ClassifyOptions, EmbedOptions, SearchOptions, SeeingOptions
from imggen.engine.options.sampling import DirectionsOptions, InterpolateOptions, SampleOptions
from imggen.engine.options.segmentation import SegmentOptions, TrainSegmentOptions
from imggen.engine.options.shared import MAX_DIRECTIONS, MAX_SEED, MachineOptions, ModelOptions, VerbOptions
from imggen.engine.options.training import TrainClassifyOptions, TrainOptions
from imggen.engine.options.translation import TrainTranslateOptions, TranslateOptions

__all__ = [
    "MAX_DIRECTIONS",
    "MAX_SEED",
    "CacheOptions",
    "ClassifyOptions",
    "DirectionsOptions",
    "EmbedOptions",
    "EvaluateOptions",
    "ExploreOptions",
    "ExportOptions",
    "InfoOptions",
    "InpaintOptions",
    "InterpolateOptions",
    "MachineOptions",
    "ModelOptions",
    "SampleOptions",
    "SearchOptions",
    "SeeingOptions",
    "SegmentOptions",
    "StylizeOptions",
    "TrainClassifyOptions",
    "TrainOptions",
    "TrainSegmentOptions",
    "TrainTranslateOptions",
    "TranslateOptions",
    "VerbOptions",
    "train_options",
]

_TRAIN_OPTIONS = {"classify": TrainClassifyOptions, "segment": TrainSegmentOptions, "translate": TrainTranslateOptions}


def train_options(family: str) -> type[TrainOptions]:
    """The options of `imggen train FAMILY`, beside those of its configuration."""
    return _TRAIN_OPTIONS.get(family, TrainOptions)
