"""Walks that keep the first picture's details: which they are, and that the rest moves on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imggen.engine.checkpoints import load_backend
from imggen.engine.interpolation.interpolate import interpolate
from imggen.engine.noise import SampleSpec, noise_for
from imggen.engine.options import InterpolateOptions, SampleOptions
from imggen.engine.sampling.sample import sample
from imggen.errors import UsageError
from imggen.reporting import Silent


def frames_of(folder: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(file)) for file in sorted(Path(folder).iterdir())]


def test_a_steady_walk_keeps_the_details_and_walks_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    common = {"model": "vae", "seeds": "1,2,3", "label": "7", "frames": 9}
    interpolate(InterpolateOptions(output="plain/", **common), Silent())
    interpolate(InterpolateOptions(output="steady/", steady=True, **common), Silent())
    plain, steady = frames_of("plain"), frames_of("steady")
    sample(SampleOptions(model="vae", output="one.png", count=1, seed=1, label="7"), Silent())
    assert np.array_equal(steady[0], np.asarray(Image.open("one.png"))) and np.array_equal(steady[0], plain[0])
    backend = load_backend("vae", device="cpu").backend
    details = backend.details
    assert details is not None and details.shape == backend.noise_shape and 0 < int(details.sum()) < details.numel()
    noise, _ = noise_for([SampleSpec(1), SampleSpec(3)], backend)
    both = torch.where(details, noise[0], noise[1])[None]
    with torch.no_grad():
        picture = backend.generate(both, torch.tensor([7]))
    found = ((picture[0, 0] + 1) * 127.5).round().numpy()
    assert abs(steady[-1] - found).max() <= 1
    # The picture is the last seed's all the same, but for details; and the plain walk ends in that seed's own.
    other = abs(steady[-1].astype(float) - plain[-1]).mean()
    assert 0 < other < 0.6 * abs(steady[-1].astype(float) - steady[0]).mean()
    with Image.open("steady/00000.png") as image:
        assert "--steady" in image.info["imggen"]


def test_a_steady_loop_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = interpolate(
        InterpolateOptions(model="vae", output="walk.gif", seeds="4,5,6", steady=True, loop=True, frames=30), Silent()
    )
    assert result["steps"]["closing"] <= result["steps"]["median"]


@pytest.mark.parametrize("model", ["gan", "transformer"])
def test_a_family_that_cannot_tell_details_says_so(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="details"):
        interpolate(InterpolateOptions(model=model, output="walk.gif", seeds="1,2", steady=True), Silent())
    assert not Path("walk.gif").exists()
