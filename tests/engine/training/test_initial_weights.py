"""`--init-from`: a run that begins with a trained model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from imggen.engine import training
from imggen.engine.checkpoints import load_backend
from imggen.engine.options import TrainOptions
from imggen.errors import CheckpointError, UsageError
from imggen.io.checkpoint import read_header
from imggen.models import presets
from imggen.reporting import Silent
from tests.helpers import RecordingReporter

MakeOptions = Callable[..., TrainOptions]
pytestmark = pytest.mark.usefixtures("few_pairs")


def test_a_run_begins_from_a_model(image_folder: Path, options: MakeOptions) -> None:
    first = replace(options(image_folder, "first"), seed=1)
    training.run(first, Silent())
    source = load_backend(Path("first"), device="cpu").backend
    # One step at almost no learning rate shows what it begins with.
    overrides = {**first.overrides, "learning_rate": 1e-8}
    second = replace(first, output=Path("second"), init_from="first", images=8, batch=8, overrides=overrides, seed=2)
    reporter = RecordingReporter()
    training.run(second, reporter)
    loaded = load_backend(Path("second"), device="cpu")
    for name, tensor in source.named_parameters():
        assert torch.allclose(dict(loaded.backend.named_parameters())[name], tensor, atol=1e-4)
    assert loaded.provenance["init_from"].startswith("first (")
    assert any("begin   from first" in line for line in reporter.infos)
    assert not reporter.warnings

    # It is resumed without the option, and refused with it.
    more = replace(second, images=16, init_from=None, resume=True)
    training.run(more, Silent())
    assert load_backend(Path("second"), device="cpu").provenance["init_from"].startswith("first (")
    with pytest.raises(UsageError, match="--init-from is for a new run"):
        training.run(replace(more, init_from="first"), Silent())


def test_the_preset_is_that_of_the_model(image_folder: Path, options: MakeOptions) -> None:
    first = options(image_folder, "first")
    training.run(replace(first, overrides={**first.overrides, "encoder_fraction": 1.0}), Silent())
    plain = TrainOptions(family="gan", data=str(image_folder), output=Path("second"), device="cpu", init_from="first")
    reporter = RecordingReporter()
    assert training.dry_run(plain, reporter)["width"] == options(image_folder, "first").overrides["width"]
    assert any(line.startswith("begin   from first (") for line in reporter.infos)
    said = [line for line in reporter.infos if line.endswith("in place of the preset's")]
    assert len(said) == 1 and f"width {options(image_folder, 'first').overrides['width']}" in said[0]
    assert training.dry_run(replace(plain, preset="tiny"), Silent())["width"] == 64
    assert training.dry_run(plain, Silent())["encoder_fraction"] == 0.05  # not 1, which trains no generator
    with pytest.raises(UsageError, match="first is a gan, and cannot begin a vae"):
        training.dry_run(replace(plain, family="vae"), Silent())
    with pytest.raises(CheckpointError):
        training.dry_run(replace(plain, init_from="third"), Silent())
    assert not Path("second").exists()


def test_what_it_is_comes_from_the_model_and_how_it_is_trained_from_the_preset(
    image_folder: Path, options: MakeOptions
) -> None:
    first = options(image_folder, "first")
    given = {"gamma": 7.0, "slim": True, "z_dim": 5, "encoder_fraction": 0.0}
    training.run(replace(first, overrides={**first.overrides, **given}), Silent())
    second = TrainOptions(family="gan", data=str(image_folder), output=Path("second"), device="cpu", init_from="first")
    settings = training.dry_run(second, Silent())
    assert (settings["gamma"], settings["slim"], settings["z_dim"]) == (1.0, False, 5)
    assert settings["encoder_fraction"] == 0.05  # a model without an encoder gets one, as any new GAN
    reporter = RecordingReporter()
    training.run(replace(second, images=8, batch=8), reporter)
    assert any("a new discriminator: it learns alone for the first 10%" in line for line in reporter.infos)


def test_images_that_are_resized_get_the_size_of_the_model(image_folder: Path, options: MakeOptions) -> None:
    first = options(image_folder, "first")
    training.run(first, Silent())
    for side in (80, 90):
        Image.new("RGB", (side, side)).save(image_folder / "disc" / f"{side}.png")
    for path in image_folder.glob("*/*.png"):
        Image.open(path).resize((100, 100)).save(path)
    given = TrainOptions(family="gan", data=str(image_folder), output=Path("second"), device="cpu")
    assert training.dry_run(given, Silent())["size"] == 32
    reporter = RecordingReporter()
    assert training.dry_run(replace(given, init_from="first"), reporter)["size"] == 16
    assert any("size 16: that of the model to begin from" in line for line in reporter.infos)


def test_the_command_that_started_a_run_is_kept_when_it_is_resumed(image_folder: Path, options: MakeOptions) -> None:
    first = replace(options(image_folder, "first"), command="imggen train gan --data imgs")
    training.run(first, Silent())
    training.run(replace(first, resume=True, images=16 * 16, command="imggen train gan --resume"), Silent())
    provenance = load_backend(Path("first"), device="cpu").provenance
    assert provenance["command"] == "imggen train gan --data imgs"
    assert provenance["resumed"] == "imggen train gan --resume"


def test_credits_are_kept_in_the_model(image_folder: Path, options: MakeOptions) -> None:
    first = replace(options(image_folder, "first"), author="A. Painter, B. Drawer", license="CC BY 4.0")
    training.run(first, Silent())
    training.run(replace(first, author=None, license=None, resume=True, images=16 * 16), Silent())
    header = read_header(Path("first/weights.safetensors"))
    assert header.metadata["modelspec.author"] == "A. Painter, B. Drawer"
    assert header.metadata["modelspec.license"] == header.document["provenance"]["license"] == "CC BY 4.0"
    training.run(replace(first, author=None, license="CC0", resume=True, images=17 * 16), Silent())
    assert read_header(Path("first/weights.safetensors")).metadata["modelspec.license"] == "CC0"
    training.run(replace(first, author=None, license=None, output=Path("second")), Silent())
    assert "modelspec.author" not in read_header(Path("second/weights.safetensors")).metadata


def test_a_restart_of_torchrun_continues_it(
    image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    training.run(options(image_folder, "first"), Silent())
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    second = replace(options(image_folder, "second"), init_from="first")
    training.run(second, Silent())
    reporter = RecordingReporter()
    training.run(second, reporter)
    assert any(line.startswith("resuming second") for line in reporter.infos)


def test_tokens_to_keep_must_be_those_of_the_model(image_folder: Path) -> None:
    plain = TrainOptions(
        family="transformer", data=str(image_folder), output=Path("second"), device="cpu",
        overrides={"keep_tokens": True},
    )  # fmt: skip
    with pytest.raises(UsageError, match="--keep-tokens needs a trained encoder"):
        training.dry_run(plain, Silent())
    begun = presets("transformer")["tiny"]
    begun.with_overrides(keep_tokens=True, width=80, depth=2).check_start(begun)
    for other, message in (
        ({"channels": 1}, "it has 3 channels, not 1"),
        ({"factor": 8}, "it has 4 pixels along a side of a token, not 8"),
        ({"codes": 15360}, "it has 1,000 codes, not 15,360"),
        ({"tokenizer_width": 16}, "it has 32 base channels of the tokenizer, not 16"),
    ):
        with pytest.raises(UsageError, match=message):
            begun.with_overrides(keep_tokens=True, **other).check_start(begun)
