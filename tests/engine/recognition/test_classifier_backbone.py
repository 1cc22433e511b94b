"""A classifier as what sees: its own backbone, or that of another model."""

import json
from pathlib import Path

import torch

from imggen.engine import recognition
from imggen.engine.checkpoints import load_backend, save_backend
from imggen.engine.options import EmbedOptions, SearchOptions
from imggen.engine.recognition.vectors import Vectors, read_vectors
from imggen.models import build_model, presets
from imggen.models.classifier.backbone import ModelBackbone
from imggen.models.classifier.model import ClassifierModel
from imggen.reporting import Silent

CLASSES = {"classes": ("blue", "green", "red"), "class_counts": (4, 4, 4)}


def embed(model: str) -> Vectors:
    options = EmbedOptions(model=model, image="photos", output=f"{Path(model).stem}-v.safetensors", device="cpu")
    recognition.run_embed(options, Silent())
    return read_vectors(Path(options.output))


def test_its_own_network_finds_images(photos: Path) -> None:
    torch.manual_seed(0)
    config = presets("classify")["tiny"].with_overrides(size=16, width=8, **CLASSES)
    save_backend(Path("run.safetensors"), build_model(config), {})
    options = SearchOptions(model="run.safetensors", data="photos", image="photos/red/1.png", count=3, device="cpu")
    (query,) = recognition.run_search(options, Silent())["queries"]
    assert sorted(match["path"] for match in query["matches"]) == [f"photos/red/{number}.png" for number in (0, 2, 3)]
    assert not embed("run.safetensors").center.any()


def test_the_backbone_of_another_model_sees_what_that_model_sees(photos: Path, model_files: dict[str, str]) -> None:
    vae = load_backend(model_files["vae"], device="cpu").backend
    dimensions = vae.features(torch.zeros(1, 3, 16, 16)).vectors.shape[1]
    document = json.loads(json.dumps(vae.config.to_json()))  # as a checkpoint has it
    backbone = {"name": "vae", "hash": "0", "dimensions": dimensions, "model": document}
    config = presets("classify")["head"].with_overrides(size=16, backbone=backbone, **CLASSES)
    model = build_model(config)
    assert isinstance(model, ClassifierModel) and isinstance(model.backbone, ModelBackbone)
    model.backbone.model.load_state_dict(vae.state_dict())
    save_backend(Path("head.safetensors"), model, {})
    seen, expected = embed("head.safetensors"), embed(model_files["vae"])
    assert torch.equal(seen.vectors, expected.vectors) and torch.equal(seen.center, expected.center)
