"""Walks: every frame a sample, ends exact, loops that close."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from imggen.engine.checkpoints import load_backend
from imggen.engine.interpolation.interpolate import plan
from imggen.engine.interpolation.latent_path import divide, even_places, paced_places, segments, unevenness
from imggen.engine.options import InterpolateOptions, SampleOptions
from imggen.engine.sampling.sample import sample
from imggen.errors import DataError, UsageError
from imggen.models.base import Backend
from imggen.models.gan.backend import GanBackend as GanBackend
from imggen.reporting import Silent
from tests.engine.interpolate_help import drawn, folder_frames, walk


@pytest.mark.parametrize("path", ["slerp", "spline"])
@pytest.mark.parametrize("loop", [False, True])
def test_keys_are_bit_for_bit_what_sample_draws(model: str, path: str, loop: bool) -> None:
    walk(model, "f/", path=path, loop=loop, frames=14)
    frames = folder_frames("f")
    assert len(frames) == 14
    wanted = [drawn(model, seed) for seed in (3, 14, 15)]
    assert np.array_equal(frames[0], wanted[0])
    assert loop or np.array_equal(frames[-1], wanted[2])
    for picture in wanted:
        assert any(np.array_equal(frame, picture) for frame in frames)
    assert len({frame.tobytes() for frame in frames}) == 14


def test_classes_of_seeds_and_classes_asked_for(classed: str) -> None:
    walk(classed, "a/", seeds="1,2", frames=6)
    assert np.array_equal(folder_frames("a")[0], drawn(classed, 1))
    assert np.array_equal(folder_frames("a")[-1], drawn(classed, 2))
    walk(classed, "b/", seeds="1,2", frames=6, label="elk")
    assert np.array_equal(folder_frames("b")[-1], drawn(classed, 2, label="elk"))
    walk(classed, "c/", seeds="1,2,3", frames=9, label_from="fox", label_to="owl")
    assert np.array_equal(folder_frames("c")[0], drawn(classed, 1, label="fox"))
    assert np.array_equal(folder_frames("c")[-1], drawn(classed, 3, label="owl"))
    with pytest.raises(UsageError, match="no class 'olw'"):
        walk(classed, "d/", label="olw")


def test_a_family_may_show_what_is_between_two_classes(classed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def between(self: Backend, noise: Tensor, old: Tensor, new: Tensor, share: Tensor, *, temperature: float) -> Tensor:
        seen.extend(share[old != new].tolist())
        a, b = (self.generate(noise, labels, temperature=temperature) for labels in (old, new))
        return torch.lerp(a, b, share[:, None, None, None])

    hard = (walk(classed, "h/", seeds="1,2", frames=9, label_from="fox", label_to="owl"), folder_frames("h"))[1]
    monkeypatch.setattr(GanBackend, "generate_between", between)
    soft = (walk(classed, "s/", seeds="1,2", frames=9, label_from="fox", label_to="owl"), folder_frames("s"))[1]
    assert sorted(seen) == [k / 8 for k in range(1, 8)]
    assert np.array_equal(hard[0], soft[0]) and np.array_equal(hard[-1], soft[-1])
    assert not np.array_equal(hard[3], soft[3])


@pytest.mark.parametrize("path", ["slerp", "spline", "circle"])
def test_every_place_is_standard_normal(path: str) -> None:
    count = 2 if path == "circle" else 4
    for loop in (False, True):
        parts = segments(path, count, loop, lambda i, j: float(i == j), np.ones(count))
        for part in parts:
            shares = part.shares(np.linspace(0, 1, 21))
            gram = np.array([[float(i == j) for j in part.keys] for i in part.keys])
            assert np.allclose(np.einsum("ni,ij,nj->n", shares, gram, shares), 1)
            ends = np.eye(len(part.keys))[list(part.ends)]
            assert np.array_equal(part.shares(np.array([0.0, 1.0])), ends)


@pytest.mark.parametrize("path", ["slerp", "spline", "circle"])
def test_loops_close_evenly(path: str) -> None:
    random = np.random.default_rng(0)
    count = 2 if path == "circle" else 5
    keys = random.standard_normal((count, 512))
    parts = segments(path, count, True, lambda i, j: float(i == j), np.ones(count))
    for frames in (40, 41, 43):
        places = even_places(parts, frames, True, "none")
        noise = np.stack(
            [parts[p.segment].shares(np.array([p.share]))[0] @ keys[list(parts[p.segment].keys)] for p in places]
        )
        steps = np.linalg.norm(np.roll(noise, -1, 0) - noise, axis=1)
        assert len(places) == frames and steps[-1] <= np.median(steps) * 1.05
        if path != "spline":
            assert steps.max() / steps.min() < 1.4


def test_keys_that_are_not_independent() -> None:
    random = np.random.default_rng(1)
    keys = random.standard_normal((3, 64)) * np.array([[0.5], [1.0], [2.0]])
    keys[1] += keys[0]
    cosines = np.corrcoef(keys)
    sizes = np.sqrt((keys**2).mean(1))
    gram = keys @ keys.T / 64 / sizes[:, None] / sizes
    assert np.allclose(np.diag(gram), 1) and cosines.shape == (3, 3)
    for path in ("slerp", "spline"):
        for part in segments(path, 3, True, lambda i, j: float(gram[i, j]), sizes):
            noise = part.shares(np.linspace(0, 1, 11)) @ keys[list(part.keys)]
            size = np.sqrt((noise**2).mean(1))
            a, b = (sizes[part.keys[end]] for end in part.ends)
            assert np.allclose(size, np.linspace(a, b, 11), rtol=1e-6)
    same = segments("slerp", 2, False, lambda i, j: 1.0, np.ones(2))[0]
    assert np.allclose(same.shares(np.linspace(0, 1, 5)).sum(1), 1)
    opposite = segments("slerp", 2, False, lambda i, j: -1.0 if i != j else 1.0, np.ones(2))[0]
    assert np.isfinite(opposite.shares(np.linspace(0, 1, 5))).all()


@given(lengths=st.lists(st.floats(0.01, 100), min_size=1, max_size=12), more=st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_steps_are_divided_whole(lengths: list[float], more: int) -> None:
    counts = divide(np.array(lengths), len(lengths) + more)
    assert sum(counts) == len(lengths) + more and min(counts) >= 1


def test_paces_by_sight_are_even_and_close() -> None:
    parts = segments("spline", 4, True, lambda i, j: float(i == j), np.ones(4))

    def seen(segment: int, share: float) -> float:  # how far along one has come, by sight
        return segment + share**3

    steps = [np.diff([seen(k, u) for u in np.linspace(0, 1, 400)]) for k in range(4)]
    places = paced_places(steps, 80, True, "none")
    where = np.array([seen(place.segment, place.share) for place in places])
    far = np.diff([*where, 4.0])
    assert unevenness(far) < 0.05 and far[-1] <= np.median(far) and len(parts) == 4
    assert [place.share for place in places].count(0.0) == 4


def test_perceptual_pace_on_a_model(model: str) -> None:
    rough = walk(model, "a.png", frames=60, loop=True)["steps"]
    even = walk(model, "b.png", frames=60, loop=True, pace="perceptual")["steps"]
    assert even["unevenness"] < 0.15 < rough["unevenness"]
    assert even["largest"] <= 1.5 * even["median"] and even["closing"] <= even["median"]
    assert rough["closing"] <= rough["median"]


def test_eased_walks_are_slow_at_the_keys(model: str) -> None:
    walk(model, "a/", seeds="1,2", frames=30, ease="cubic")
    frames = [frame.astype(float) for frame in folder_frames("a")]
    steps = [np.abs(b - a).mean() for a, b in itertools.pairwise(frames)]
    assert steps[0] < np.median(steps) / 2 and steps[-1] < np.median(steps) / 2


def test_through_pictures(model: str) -> None:
    for seed, name in ((1, "a.png"), (2, "b.png")):
        Image.fromarray(drawn(model, seed)).save(name)
    found = walk(model, "w.gif", start=(Path("a.png"),), end=(Path("b.png"),), frames=5)
    assert [line["path"] for line in found["pictures"]] == ["a.png", "b.png"]
    apart = np.square(drawn(model, 1).astype(float) - drawn(model, 2)).mean()
    assert all(line["db"] > 3 + 10 * np.log10(255**2 / apart) for line in found["pictures"])
    Path("two").mkdir()
    for name in ("a.png", "b.png"):
        Path(name).rename(Path("two") / name)
    assert len(walk(model, "x.gif", start=(Path("two"),), frames=3, loop=True)["pictures"]) == 2
    Path("two/c.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"c\.png cannot be read"):
        walk(model, "y.gif", start=(Path("two"),))
    with pytest.raises(DataError, match="cannot be read"):
        walk(model, "y.gif", start=(Path("none.png"), Path("two/a.png")))
    assert not Path("y.gif").exists()


@pytest.mark.parametrize(
    ("output", "more", "message"),
    [
        ("w.gif", {"seeds": "3"}, "from one key to another"),
        ("w.gif", {"frames": 2}, "more keys than frames"),
        ("w.gif", {"frames": 100_001}, "too many"),
        ("w.gif", {"fps": 60.0}, "at most 50"),
        ("w.avi", {}, "avi"),
        ("w.gif", {"strip": True}, "gif"),
        ("w/", {"strip": True}, "one picture"),
        ("w-%d.png", {}, "folder of frames"),
        ("-", {}, "folder of frames"),
        ("w.gif", {"grid": (2, 1)}, "equal walks"),
        ("w.gif", {"path": "circle"}, "two keys"),
        ("w.gif", {"path": "circle", "seeds": "1,1"}, "two different"),
        ("w.webp", {"zoom": 64, "seeds": "0-63", "grid": (16, 2)}, "too large"),
        ("w.gif", {"label": "owl"}, "no classes"),
        ("w.gif", {"seeds": "0-999999"}, "too many"),
    ],
)
def test_what_cannot_be_is_refused(model: str, output: str, more: dict[str, Any], message: str) -> None:
    before = sorted(Path().iterdir())
    with pytest.raises(UsageError, match=message):
        walk(model, output, **more)
    assert sorted(Path().iterdir()) == before


def test_plan_draws_nothing(model: str) -> None:
    for more, word in (({"frames": 2}, "more keys than frames"), ({"path": "circle"}, "two keys, not 3")):
        with pytest.raises(UsageError, match=word):
            plan(InterpolateOptions(model=model, output="w.gif", seeds="1-3", **more), Silent())
    found = plan(InterpolateOptions(model=model, output="w.gif", seed=4, loop=True), Silent())
    assert (found["seeds"], found["frames"], found["path"], found["loop"]) == ("4-7", 160, "spline", True)
    assert not Path("w.gif").exists()


@pytest.mark.parametrize("path", ["slerp", "spline", "circle"])
@pytest.mark.parametrize(("name", "label"), [("gan", "3"), ("gan-emoji", None), ("vae", None), ("transformer", "3")])
def test_loops_of_shipped_models_close_with_no_longer_step(name: str, label: str | None, path: str) -> None:
    count = 2 if path == "circle" else 4
    for first in (4, 44, 100):
        more = {"seeds": f"{first}-{first + count - 1}", "label": label, "path": path}
        steps = walk(name, "w.png", frames=48, loop=True, force=True, **more)["steps"]
        assert steps["closing"] <= steps["median"]


def test_a_loop_in_a_grid_closes_as_a_whole(model: str) -> None:
    for strip in (False, True):
        more = {"strip": strip, "path": "slerp", "seeds": "0-7"}
        steps = walk(model, "w.png", grid=(2, 1), loop=True, force=True, **more)["steps"]
        assert steps["closing"] <= steps["median"]


def test_the_picture_in_the_middle_is_found_in_the_class_that_draws_it(classed: str) -> None:
    sample(SampleOptions(model=classed, output="k-%d.png", seeds="1,2,3", label="owl", force=True), Silent())
    start = (Path("k-1.png"), Path("k-2.png"), Path("k-3.png"))
    alike = walk(classed, "a/", start=start, frames=9, label="owl")["pictures"]
    for loop in (False, True):
        classes = {"label_from": "fox", "label_to": "owl"}
        changing = walk(classed, f"b{loop}/", start=start, frames=9, loop=loop, **classes)["pictures"]
        assert [one["db"] for one in changing[1:]] == pytest.approx([one["db"] for one in alike[1:]], abs=0.5)


def test_shipped_digits_walk_well(tmp_path: Path) -> None:
    assert load_backend("gan", device="cpu").origin == "shipped"
    found = walk("gan", "w.gif", seeds="3,14,15", label="3", frames=60, loop=True)
    assert found["steps"]["largest"] <= 5 * found["steps"]["median"]
    assert found["steps"]["closing"] <= found["steps"]["median"]
