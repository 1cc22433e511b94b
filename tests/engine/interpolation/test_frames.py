"""Frames: their classes, and noise that stays fixed with --steady."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imggen.engine.checkpoints import load_backend
from imggen.engine.interpolation.frames import FrameDistances, LatentPath
from imggen.engine.interpolation.keyframes import Keyframes
from imggen.engine.interpolation.latent_path import PathPoint, make_segments
from imggen.engine.noise import SampleSpec, noise_for
from imggen.errors import UsageError
from tests.engine.interpolation.conftest import interpolate, read_folder, sample_image


def path_of_two(*, labels: tuple[int, int] | None = None, fixed_noise: torch.Tensor | None = None) -> LatentPath:
    keyframes = Keyframes(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([5, 6]), ("1", "2"), seeds=[1, 2])
    segments = make_segments("slerp", 2, False, keyframes.cosine_similarity, np.ones(2))
    return LatentPath(keyframes, 0, segments, labels, lambda t: t, [], fixed_noise)


@pytest.mark.parametrize(("labels", "old", "new"), [(None, 5, 6), ((3, 8), 3, 8)])
def test_the_class_changes_half_way(labels: tuple[int, int] | None, old: int, new: int) -> None:
    path = path_of_two(labels=labels)
    points = [PathPoint(0, t) for t in (0.0, 0.49, 0.5 - 1e-12, 0.5, 1.0)]
    assert [path.label(point) for point in points] == [old, old, new, new, new]
    start, end = (path.seed_at(PathPoint(0, t)) for t in (0.0, 1.0))
    if labels is None:
        assert (start, end) == (SampleSpec(1), SampleSpec(2))
    else:
        assert (start, end) == (SampleSpec(1, 3), SampleSpec(2, 8))
    assert path.seed_at(PathPoint(0, 0.5)) is None


def test_fixed_noise_stays_that_of_the_first_keyframe() -> None:
    path = path_of_two(fixed_noise=torch.tensor([True, False]))
    assert path.noise(PathPoint(0, 1.0)).tolist() == [1.0, 1.0]
    assert path.seed_at(PathPoint(0, 0.0)) == SampleSpec(1) and path.seed_at(PathPoint(0, 1.0)) is None


def test_statistics_of_steps() -> None:
    distances = FrameDistances()
    assert distances.statistics(loop=True) == {}
    for level in (0, 10, 40):
        distances.add(np.full((2, 2, 1), level, np.uint8))
    assert distances.statistics(loop=True) == {"median": 20.0, "largest": 30.0, "unevenness": 0.5, "closing": 40.0}


@pytest.mark.slow
def test_steady_keeps_the_details_of_the_first_image() -> None:
    common = {"seeds": "1,2,3", "label": "7", "frames": 9}
    interpolate("vae-digits", "plain/", **common)
    interpolate("vae-digits", "steady/", steady=True, **common)
    plain, steady = read_folder("plain"), read_folder("steady")
    assert np.array_equal(steady[0], sample_image("vae-digits", 1, label="7")) and np.array_equal(steady[0], plain[0])
    backend = load_backend("vae-digits", device="cpu").backend
    mask = backend.detail_mask
    assert mask is not None and mask.shape == backend.noise_shape and 0 < int(mask.sum()) < mask.numel()
    noise, _ = noise_for([SampleSpec(1), SampleSpec(3)], backend)
    with torch.no_grad():
        image = backend.generate(torch.where(mask, noise[0], noise[1])[None], torch.tensor([7]))
    assert abs(steady[-1] - ((image[0, 0] + 1) * 127.5).round().numpy()).max() <= 1
    # Apart from details, the last image is that of the last seed, in which the plain path ends.
    difference = abs(steady[-1].astype(float) - plain[-1]).mean()
    assert 0 < difference < 0.6 * abs(steady[-1].astype(float) - steady[0]).mean()
    with Image.open("steady/00000.png") as file:
        assert "--steady" in file.info["imggen"]


@pytest.mark.slow
def test_a_steady_loop_closes() -> None:
    steps = interpolate("vae-digits", "walk.gif", seeds="4,5,6", steady=True, loop=True, frames=30)["steps"]
    assert steps["closing"] <= steps["median"]


@pytest.mark.parametrize("name", ["gan", "transformer"])
def test_steady_needs_noise_for_details_alone(name: str) -> None:
    with pytest.raises(UsageError, match="details"):
        interpolate(name, "walk.gif", seeds="1,2", steady=True)
    assert not Path("walk.gif").exists()
