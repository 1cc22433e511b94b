"""The registry of everything that is trained: model families, one folder and one line each.

Nothing here imports torch, so that the command line may list families; a family's networks are imported when used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from imggen.errors import CheckpointError, UsageError, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imggen.models.base import Backend, Model
    from imggen.models.config import ModelConfig
    from imggen.models.learner import Learner


class Kind(NamedTuple):
    """What models do: `noun` names one, `use` is the command for it, of a MODEL, with what that does.

    `suffix` ends the name of the model's class, which is in a family's module of the same name.
    """

    noun: str
    suffix: str
    use: str


GENERATOR = Kind("generator", "Backend", "imggen sample MODEL makes images")
CLASSIFIER = Kind("classifier", "Model", "imggen classify MODEL --image SOURCE labels images")
SEGMENTER = Kind("segmentation model", "Model", "imggen segment MODEL --image SOURCE labels pixels")


class Family(NamedTuple):
    """The package of a family, with what the names of its classes begin; what it is good for, in one line of help."""

    package: str
    prefix: str
    summary: str
    kind: Kind = GENERATOR


# Everything that `imggen train` makes.
REGISTRY = {
    "gan": Family(
        "imggen.models.gan", "Gan", "Sharpest images, fast to sample; no likelihood, inpaints by a slow search"
    ),
    "transformer": Family(
        "imggen.models.transformer",
        "Transformer",
        "Varied images, with a likelihood; samples in steps, inpaints photographs best",
    ),
    "vae": Family(
        "imggen.models.vae", "Vae", "Best likelihood, fast to sample; inpaints thin masks best; softer images"
    ),
    "classify": Family(
        "imggen.models.classifier",
        "Classifier",
        "Tells classes of images apart, learned from labeled images",
        CLASSIFIER,
    ),
    "segment": Family(
        "imggen.models.mapper.segment",
        "Segment",
        "Labels every pixel of an image, learned from images with masks",
        SEGMENTER,
    ),
}
TRAINED = tuple(REGISTRY)
FAMILIES = tuple(name for name, family in REGISTRY.items() if family.kind == GENERATOR)


def kind_of(family: str) -> Kind:
    """What the models of a family do."""
    return REGISTRY[family].kind


def family_config(family: str) -> type[ModelConfig]:
    """The configuration dataclass of a family; its fields made by `option` are the user's options."""
    return _import(family, "config", "Config", prefixed=True)


def presets(family: str) -> Mapping[str, ModelConfig]:
    """The presets of a family by name."""
    return _import(family, "config", "PRESETS")


def describe(family: str, preset: str) -> str:
    """One line on what a preset is for."""
    return _import(family, "config", "DESCRIPTIONS")[preset]


def describe_family(family: str) -> str:
    """One line on what a family is good for."""
    return REGISTRY[family].summary


def build_model(config: ModelConfig) -> Model:
    """A model with fresh weights (on the current default device; "meta" allocates nothing)."""
    suffix = kind_of(config.family).suffix
    return _import(config.family, suffix.lower(), suffix, prefixed=True)(config, *_build_parts(config))


def build_backend(config: ModelConfig) -> Backend:
    """`build_model` of a generator's configuration."""
    return cast("Backend", build_model(config))


def build_learner(config: ModelConfig) -> Learner:
    """A learner with fresh weights and optimizers, on the CPU."""
    return _import(config.family, "learner", "Learner", prefixed=True)(config, *_build_parts(config))


def _build_parts(config: ModelConfig) -> list[Model]:
    """The models that a model is made with, in eval mode. Raises CheckpointError for a damaged configuration."""
    return [build_backend(read_model_config(document)).eval() for document in config.parts]


def read_model_config(document: dict[str, Any]) -> ModelConfig:
    """The configuration that `ModelConfig.to_json` wrote. Raises CheckpointError."""
    family = document.get("family")
    if family not in TRAINED:
        raise CheckpointError(
            f"a model of an unknown family: {shortened(family)}",
            f"this version has {', '.join(TRAINED)}; a newer one may have more: pip install -U imggen",
        )
    return family_config(family).from_json(document)


def _import(family: str, module: str, name: str, *, prefixed: bool = False) -> Any:
    """An object of one of a family's modules; the name of a class is `prefixed`. Raises UsageError."""
    if family not in REGISTRY:
        raise UsageError(f"there is no family '{family}'", f"families: {', '.join(REGISTRY)}")
    entry = REGISTRY[family]
    return getattr(import_module(f"{entry.package}.{module}"), entry.prefix + name if prefixed else name)
