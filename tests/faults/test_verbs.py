"""Images of every format and mode, and files that vanish: every verb reads, and leaves out, the same ones."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from imggen.data.decode import read_image_file
from imggen.data.files import FolderListing, list_folder
from imggen.engine.checkpoints import save_backend
from imggen.models import build_model, presets
from tests.faults.hostile_images import images
from tests.faults.runs import make_images
from tests.helpers import CLASSES, run_cli, save_segmenter, small_vae

VERBS = {
    "classify": ["vae.safetensors", "--image", "imgs"],
    "embed": ["vae.safetensors", "--image", "imgs"],
    "search": ["vae.safetensors", "--data", "imgs", "--duplicates", "--above", "-1"],
    "segment": ["segment.safetensors", "--image", "imgs", "-o", "out/"],
    "translate": ["translate.safetensors", "--image", "imgs", "-o", "out/"],
    "stylize": ["--content", "imgs", "--style", "style.png", "--method", "color", "-o", "out/"],
}
IMAGE_VERBS = ("segment", "translate", "stylize")  # their results are images
Run = Callable[[str], tuple[dict[str, Any], str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a verb with a small model on the folder `imgs`; returns its document and stderr."""
    torch.manual_seed(0)
    save_backend(Path("vae.safetensors"), small_vae(classes=CLASSES, class_counts=(1, 1, 1)), {})
    save_segmenter(Path("segment.safetensors"))
    config = presets("translate")["tiny"].with_overrides(width=8, halvings=2)
    save_backend(Path("translate.safetensors"), build_model(config).eval(), {})
    Image.new("RGB", (16, 16), (200, 30, 9)).save("style.png")

    def run_verb(verb: str) -> tuple[dict[str, Any], str]:
        code, out, err = run_cli(capsys, verb, *VERBS[verb], "--device", "cpu", "--json")
        assert code == 0, err
        return json.loads(out), err

    return run_verb


@pytest.mark.parametrize("verb", VERBS)
def test_images_of_every_format_and_mode(verb: str, run: Run) -> None:
    """They are read, with the metadata that they have, and results are as large as the images."""
    Path("imgs").mkdir()
    files, animated = list[Path](), ""
    for number, data in enumerate(images()):
        with Image.open(io.BytesIO(data)) as image:
            files.append(Path(f"imgs/{number:02}.{str(image.format).lower()}"))
            frames = getattr(image, "n_frames", 1)
        files[-1].write_bytes(data)
        animated = files[-1].name if frames > 1 else animated
    document, err = run(verb)
    assert "left out" not in err
    assert len(document["images"]) == len(files) if verb in IMAGE_VERBS else document["count"] == len(files)
    if verb not in IMAGE_VERBS:
        return
    for file in files:
        with Image.open(f"out/{file.stem}.png") as result:
            assert result.size == read_image_file(file).image.size
    if verb != "segment":
        assert f"{animated}: of its 2 images only the first" in err


@pytest.mark.parametrize("verb", VERBS)
def test_an_image_that_vanishes_is_left_out_and_named(verb: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(Path("imgs"), 24)

    def list_then_vanish(*given: Any) -> FolderListing:
        listing = list_folder(*given)
        Path("imgs/0007.png").unlink(missing_ok=True)
        return listing

    for module in ("files", "scan"):
        monkeypatch.setattr(f"imggen.data.{module}.list_folder", list_then_vanish)
    document, err = run(verb)
    assert "left out" in err and "0007.png" in err
    assert len(document["images"] if verb in IMAGE_VERBS else document.get("labels", range(23))) == 23
