"""`--features`: the model whose backbone a classifier or a segmentation has; and whether a classifier should."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imggen.data.dataset import Dataset, ScannedDataset
from imggen.engine.checkpoints import load_backend
from imggen.engine.noise import mix_seed
from imggen.engine.options import TrainOptions
from imggen.engine.training.initial_weights import refuse_init_from
from imggen.errors import UsageError
from imggen.io.pixels import to_float
from imggen.metrics.crossvalidation import cross_validate, folds_of
from imggen.models import build_learner, presets
from imggen.models.base import Model
from imggen.models.classifier.backbone import ModelBackbone, PretrainedBackbone
from imggen.models.classifier.config import ClassifierConfig
from imggen.models.config import ModelConfig
from imggen.models.efficientnet import EfficientNetLite0, load_efficientnet
from imggen.models.learner import Learner
from imggen.models.mapper.segment.config import SegmentConfig
from imggen.models.mapper.segment.model import SegmentModel
from imggen.models.pretrained import PRETRAINED
from imggen.reporting import Reporter

HEAD, TUNED = "head", "tuned"  # presets
OWN = "own"
PRETRAINED_SIZE = 160
MIN_IMAGES_TO_TUNE = 1_000
MAX_ROWS = 1_000  # of the data, to standardize vectors and to choose by
SEEN_AT_ONCE = 32
# The network of its own that the backbone is compared with: trained on so many images in each fold.
OWN_IMAGES, OWN_BATCH = 12_800, 32
CLEAR = 3.0  # standard errors of the difference, after which no further fold is needed


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone to train a head on: the name of its model, its hash, the shape of images for it, and itself."""

    name: str
    hash: str
    size: int
    channels: int
    backbone: ModelBackbone | PretrainedBackbone

    @property
    def document(self) -> dict[str, Any]:
        """The description that a classifier's configuration has."""
        # As it is read back: lists in place of tuples.
        model = (
            json.loads(json.dumps(self.backbone.model.config.to_json()))
            if isinstance(self.backbone, ModelBackbone)
            else None
        )
        return {"name": self.name, "hash": self.hash, "dimensions": self.backbone.dimensions, "model": model}

    @torch.inference_mode()
    def extract(self, dataset: Dataset, rows: np.ndarray[Any, Any], device: torch.device, reporter: Reporter) -> Tensor:
        """The vectors (N, D) of some rows of a data set, on the CPU."""
        vectors, backbone = [], self.backbone.to(device)
        with reporter.task("extracting features", len(rows)) as task:
            for start in range(0, len(rows), SEEN_AT_ONCE):
                levels, _ = dataset.batch(rows[start : start + SEEN_AT_ONCE])
                images = to_float(levels.to(device)).contiguous(memory_format=torch.channels_last)
                vectors.append(backbone.features(images).vectors.cpu())
                task.update(start)
        return torch.cat(vectors)


@dataclass(frozen=True)
class PreparedHead:
    """A backbone, and what standardizes its vectors: their mean (D,), and one over their deviation (D,)."""

    backbone: LoadedBackbone
    mean: Tensor
    scale: Tensor

    def copy_into(self, learner: Learner, reporter: Reporter) -> None:
        """Give the learner of a new run this backbone."""
        weights = dict(learner.saved_model.state_dict())
        weights |= {f"backbone.{name}": value for name, value in self.backbone.backbone.state_dict().items()}
        learner.begin_from({**weights, "head.mean": self.mean, "head.scale": self.scale})


@dataclass(frozen=True)
class MapperBackbone:
    """EfficientNet-Lite0, its BatchNorms folded, to begin a segmentation with; and its hash."""

    network: EfficientNetLite0
    hash: str

    def copy_into(self, learner: Learner, reporter: Reporter) -> None:
        """Give it to the learner of a new run."""
        model = learner.saved_model
        assert isinstance(model, SegmentModel) and model.network.backbone is not None
        model.network.backbone.take(self.network)
        learner.begin_from(model.state_dict())
        reporter.info(f"begin   with EfficientNet-Lite0 ({self.hash}) as its backbone, which is not trained further")


def open_backbone(options: TrainOptions) -> LoadedBackbone | None:
    """The backbone that the options of a classifier name, with the shape of images for it; None for its own.

    Raises UsageError for a model that cannot see, for another size or other channels than the model's, and for a preset
    that does not go with it.
    """
    if options.family != ClassifierConfig.family:
        return None
    name, preset = options.overrides.get("features", OWN), options.preset
    if name == OWN:
        if preset in (HEAD, TUNED):
            raise UsageError(f"--preset {preset} needs another backbone", "--features MODEL, or pretrained")
        return None
    refuse_init_from(options)
    if preset not in (None, HEAD, TUNED):
        raise UsageError(f"--preset {preset} has a backbone of its own", "leave --preset or --features out")
    if name == PRETRAINED:
        if options.channels not in (None, 3):
            raise UsageError("pretrained features see color images", "leave --channels out")
        network, digest = load_efficientnet()
        backbone = PretrainedBackbone()
        backbone.network = network
        return LoadedBackbone(name, digest, options.size or PRETRAINED_SIZE, 3, backbone)
    if preset == TUNED:
        raise UsageError("only pretrained features can be trained further", f"--preset {HEAD}")
    loaded = load_backend(name, device="cpu")
    model = loaded.backend
    if reason := model.limitation("features"):
        raise UsageError(f"{name} cannot see: {reason}", "use another model, such as vae, or --features pretrained")
    for flag in ("size", "channels"):
        given, own = getattr(options, flag), getattr(model.config, flag)
        if given not in (None, own):
            raise UsageError(f"{name} sees images of --{flag} {own}, not {given}", f"leave --{flag} out")
    return LoadedBackbone(
        name, loaded.hash, model.config.size, model.config.channels, ModelBackbone(model, _dimensions(model))
    )


def open_mapper_backbone(options: TrainOptions) -> MapperBackbone | None:
    """What a segmentation begins with where `--features pretrained` is given, else None.

    Raises UsageError without the network's package, or beside --init-from.
    """
    if options.family != SegmentConfig.family or options.overrides.get("features") != PRETRAINED:
        return None
    refuse_init_from(options)
    return MapperBackbone(*load_efficientnet())


def with_backbone(
    config: ModelConfig,
    backbone: LoadedBackbone,
    source: Dataset | ScannedDataset,
    own_preset: str,
    device: torch.device,
    options: TrainOptions,
    reporter: Reporter,
) -> tuple[ModelConfig, PreparedHead | None]:
    """The configuration with this backbone, and what a run with it begins from.

    Without `--preset` it may be that of a network of its own, if that is better. Not decoded data decides nothing.
    """
    seeing = config.with_overrides(backbone=backbone.document)
    own = config.with_overrides(**_changes(own_preset, config.preset, options.overrides))
    if isinstance(source, ScannedDataset):
        return seeing, None
    assert isinstance(own, ClassifierConfig)
    prepared, better = prepare_head(backbone, own, source, device, reporter, chosen=options.preset is not None)
    if not better:
        return own, None
    if options.preset is None and backbone.name == PRETRAINED and len(source) >= MIN_IMAGES_TO_TUNE:
        reporter.info(
            f"chosen  preset {TUNED}: {len(source):,} images are enough to train the pretrained backbone further"
        )
        return seeing.with_overrides(**_changes(TUNED, HEAD, options.overrides)), prepared
    return seeing, prepared


def _changes(preset: str, other: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """The fields that make a configuration of preset `other` one of `preset`, but for those that are given."""
    wanted, current = presets("classify")[preset].to_json(), presets("classify")[other].to_json()
    return {name: value for name, value in wanted.items() if value != current[name] and name not in overrides}


@torch.inference_mode()
def _dimensions(model: Model) -> int:
    return model.features(torch.zeros(1, *model.config.image_shape)).vectors.shape[1]


def prepare_head(
    backbone: LoadedBackbone,
    own: ClassifierConfig,
    dataset: Dataset,
    device: torch.device,
    reporter: Reporter,
    *,
    chosen: bool,
) -> tuple[PreparedHead, bool]:
    """Standardize the vectors of the backbone; and whether a head on them is better, unless that is already `chosen`.

    By cross-validation in five folds of at most MAX_ROWS images: a logistic regression on the vectors, and the network
    `own`, on as many folds as a clear difference takes. Deterministic.
    """
    rows = np.linspace(0, len(dataset) - 1, min(len(dataset), MAX_ROWS)).round().astype(int)
    vectors = backbone.extract(dataset, rows, device, reporter)
    mean, scale = vectors.mean(0), 1 / vectors.std(0).clamp(min=1e-3)
    prepared = PreparedHead(backbone, mean, scale)
    if chosen:
        return prepared, True
    reporter.info(
        f"compare a head on {backbone.name} with a network of its own, before the budget begins; "
        f"--preset {HEAD} takes the head at once"
    )
    labels = torch.from_numpy(np.asarray(dataset.labels)[rows].copy())
    head = cross_validate((vectors - mean) * scale, labels, len(dataset.classes))
    compared = torch.zeros(len(rows), dtype=torch.bool)
    right = torch.zeros(len(rows), dtype=torch.bool)
    folds = folds_of(len(rows))
    with reporter.task("choosing", int(folds.max()) + 1) as task:
        for fold in range(int(folds.max()) + 1):
            test = folds == fold
            right[test] = _own_network_is_right(own, dataset, rows, test.numpy(), device)
            compared |= test
            task.update(fold + 1)
            difference = right[compared].double() - head[compared].double()
            if abs(float(difference.mean())) > CLEAR * float(difference.std()) / len(difference) ** 0.5:
                break
    shares = f"{float(head[compared].double().mean()):.1%} of {int(compared.sum()):,} images right"
    shares += f", a network of its own {float(right[compared].double().mean()):.1%}"
    reporter.info(f"chosen  by cross-validation: a head on {backbone.name} has {shares}")
    return prepared, float(difference.mean()) <= 0


def _own_network_is_right(
    config: ClassifierConfig, dataset: Dataset, rows: np.ndarray[Any, Any], test: Any, device: torch.device
) -> Tensor:
    """For each test row (N,), whether a network trained briefly on the other rows finds its class."""
    train_rows = rows[~test]
    torch.manual_seed(mix_seed(0, 0))
    learner = build_learner(config)
    learner.to(device)
    steps = OWN_IMAGES // OWN_BATCH
    for step in range(steps):
        torch.manual_seed(mix_seed(0, 1, step))
        chosen = train_rows[torch.randint(len(train_rows), (OWN_BATCH,)).numpy()]
        levels, labels = dataset.batch(chosen)
        learner.step(to_float(levels.to(device)), labels.to(device), step / steps, step * OWN_BATCH)
    right = []
    with torch.inference_mode():
        for part in np.array_split(rows[test], -(-int(test.sum()) // SEEN_AT_ONCE)):
            levels, labels = dataset.batch(part)
            scores = learner.saved_model.class_scores(to_float(levels.to(device)))
            assert scores is not None
            right.append(scores.argmax(1).cpu() == labels.cpu())
    return torch.cat(right)
