"""Keyframes inverted from images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imggen.engine import sampling
from imggen.engine.options import SampleOptions
from imggen.errors import DataError
from imggen.models.gan.inversion import SearchBudget
from imggen.reporting import Silent
from tests.engine.interpolation.conftest import interpolate, sample_image
from tests.test_contract import SMALL_SEARCH


@pytest.mark.slow
def test_paths_through_images(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in ((1, "a.png"), (2, "b.png")):
        Image.fromarray(sample_image(model, seed)).save(name)
    result = interpolate(model, "w.gif", start=(Path("a.png"),), end=(Path("b.png"),), frames=5)
    assert [line["path"] for line in result["images"]] == ["a.png", "b.png"]
    mean_square = np.square(sample_image(model, 1).astype(float) - sample_image(model, 2)).mean()
    assert all(line["db"] > 3 + 10 * np.log10(255**2 / mean_square) for line in result["images"])
    monkeypatch.setattr(SearchBudget, "for_cost", lambda *arguments: SMALL_SEARCH)  # any found noise will do here
    Path("two").mkdir()
    for name in ("a.png", "b.png"):
        Path(name).rename(Path("two") / name)
    assert len(interpolate(model, "x.gif", start=(Path("two"),), frames=3, loop=True)["images"]) == 2


def test_images_that_cannot_be_read(model: str) -> None:
    Path("two").mkdir()
    Image.fromarray(sample_image(model, 1)).save("two/a.png")
    Path("two/c.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"c\.png cannot be read"):
        interpolate(model, "y.gif", start=(Path("two"),))
    with pytest.raises(DataError, match="cannot be read"):
        interpolate(model, "y.gif", start=(Path("none.png"), Path("two/a.png")))
    Path("empty").mkdir()
    with pytest.raises(DataError, match="no images in empty"):
        interpolate(model, "y.gif", start=(Path("empty"),))
    assert not Path("y.gif").exists()


@pytest.mark.slow
def test_an_image_half_way_is_inverted_in_the_class_of_its_frame(
    class_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SearchBudget, "for_cost", lambda *arguments: SMALL_SEARCH)
    options = SampleOptions(model=class_model, output="k-%d.png", seeds="1,2,3", label="bee", device="cpu")
    sampling.run(options, Silent())
    start = (Path("k-1.png"), Path("k-2.png"), Path("k-3.png"))
    one_class = interpolate(class_model, "a/", start=start, frames=9, label="bee")["images"]
    for loop in (False, True):
        classes = {"label_from": "ant", "label_to": "bee"}
        changing = interpolate(class_model, f"b{loop}/", start=start, frames=9, loop=loop, **classes)["images"]
        assert [one["db"] for one in changing[1:]] == pytest.approx([one["db"] for one in one_class[1:]], abs=0.1)
