"""Directions: found where the images change most, named by what is measured, kept, and moved along."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from imggen.engine import direction_search
from imggen.engine.checkpoints import load_model, save_backend
from imggen.engine.directions import Direction, Directions, find_directions
from imggen.engine.noise import SampleSpec, noise_for
from imggen.engine.options import SampleOptions
from imggen.engine.quantities import measure
from imggen.engine.run_dir import RunDir
from imggen.engine.sampling.reconstruct import _with_neighbors
from imggen.engine.sampling.sample import SamplePlan
from imggen.errors import UsageError
from imggen.io.pixels import to_uint8
from imggen.models import build_backend
from imggen.models.base import DEFAULT_SAMPLING, Backend, Inversion
from imggen.models.config import SamplingOptions
from imggen.models.gan.config import GanConfig
from imggen.reporting import Silent
from tests.helpers import RecordingReporter, read_pixels, run_cli, small_gan
from tests.test_contract import small


class Painter(Backend):
    """Images of 16 pixels whose lightness is number 3 of the noise, and whose red or blue, less, is number 5."""

    def __init__(self) -> None:
        super().__init__(GanConfig(preset="tiny", size=16))
        self.weight = nn.Parameter(torch.tensor([[-0.5], [0.0], [0.5]]), requires_grad=False)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (8,)

    def generate(
        self, noise: Tensor, labels: Tensor | None = None, options: SamplingOptions = DEFAULT_SAMPLING
    ) -> Tensor:
        color = 0.8 * torch.tanh(noise[:, None, 3:4]) + 0.5 * self.weight * noise[:, None, 5:6]
        ripple = 0.1 * noise[:, None, None, :1] * torch.linspace(-1, 1, 16)
        return (color[..., None] + ripple).expand(-1, 3, 16, 16).clamp(-1, 1)

    def invert(
        self, images: Tensor, labels: Tensor | None = None, options: SamplingOptions = DEFAULT_SAMPLING
    ) -> Inversion:
        return Inversion(torch.zeros(len(images), 8), labels)

    def inpaint(
        self,
        images: Tensor,
        mask: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        options: SamplingOptions = DEFAULT_SAMPLING,
    ) -> Tensor:
        raise NotImplementedError


def test_the_directions_of_a_known_model_are_found_and_named() -> None:
    found = direction_search.search_directions(Painter(), Silent())
    assert [each.name for each in found.known[:2]] == ["lightness", "red minus blue"]
    assert all(each.correlation > 0.7 for each in found.known[:2]) and found.known[0].share > found.known[1].share
    # More of the quantity is the positive way: number 3 makes lighter, number 5 more blue.
    expected = torch.zeros(2, 8)
    expected[0, 3], expected[1, 5] = 1, -1
    assert torch.allclose(found.vectors[:2], expected, atol=0.1)
    # No direction of what changes nothing.
    assert len(found) == 3
    again = direction_search.search_directions(Painter(), Silent())
    assert torch.equal(found.vectors, again.vectors) and found.known == again.known


def test_noise_moves_to_values_and_else_stays() -> None:
    vectors, _ = torch.linalg.qr(torch.randn(12, 3, generator=torch.Generator().manual_seed(0)))
    directions = Directions(vectors.T.reshape(3, 3, 4), (Direction(0.1, "", 0.0),) * 3)
    noise = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1))
    own = directions.values(noise)
    moved = directions.move(noise, {3: 1.5, 1: torch.arange(5.0)})
    assert moved.dtype == noise.dtype
    values = directions.values(moved)
    assert values[:, 2] == pytest.approx(torch.full((5,), 1.5), abs=1e-5)
    assert values[:, 0] == pytest.approx(torch.arange(5.0), abs=1e-5)
    assert values[:, 1] == pytest.approx(own[:, 1], abs=1e-5)
    rest = (moved - noise).flatten(1).double()
    assert (rest - rest @ vectors.double() @ vectors.T.double()).abs().max() < 1e-5
    assert torch.equal(directions.move(noise[2:3], {3: 1.5}), directions.move(noise, {3: 1.5})[2:3])
    assert directions.move(noise, {}) is noise
    with pytest.raises(UsageError, match="no direction 4"):
        directions.move(noise, {4: 1.0})


def test_quantities_are_those_of_the_figure() -> None:
    images = np.zeros((3, 12, 12, 4), np.uint8)
    images[:2, 2:8, 4:7] = (255, 0, 0, 255)
    images[1, 2:4, 4:7] = (0, 0, 255, 255)
    for step in range(6):
        images[2, 2 + step, 8 - step] = 255
    found = measure(images)
    assert found["height"].tolist() == [6, 6, 6] and found["width"].tolist() == [3, 3, 6]
    assert found["area"].tolist() == [18, 18, 6] and found["slant"] == pytest.approx([0, 0, 1])
    assert found["red minus blue"] == pytest.approx([1, 1 / 3, 0]) and found["saturation"][2] == 0
    assert found["upper third: red minus blue"] == pytest.approx([1, -1, 0])
    assert found["lightness"] == pytest.approx([0.299, 0.299 * 2 / 3 + 0.114 / 3, 1])
    # On a plain ground the same without alpha; an image of noise is taken as a whole.
    gray = measure(images[2:, ..., :1])
    assert gray["height"] == [6] and gray["slant"] == pytest.approx([1]) and "saturation" not in gray
    noise = np.random.default_rng(0).integers(0, 256, (1, 12, 12, 3), np.uint8)
    assert measure(noise)["area"] == [144] and np.isfinite(list(measure(0 * noise).values())).all()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A small model in gan.safetensors, few samples to find its directions with, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMGGEN_CACHE", str(tmp_path / "cache"))
    for name, value in (("PAIRS", 16), ("GRADIENT_SAMPLES", 16), ("TRIALS", 8)):
        monkeypatch.setattr(direction_search, name, value)
    save_backend(Path("gan.safetensors"), small_gan(class_counts=(3, 1)), {})


@pytest.mark.usefixtures("quick")
def test_samples_move_along_directions(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sample", "gan.safetensors", "--direction", "2=-1.5", "--direction", "1=2"]
    code, _, err = run_cli(capsys, *command, "--seeds", "3-6", "-o", "moved/", "--class", "bee")
    assert code == 0 and "found 8 directions" in err and "direction 2 at -1.5" in err
    loaded = load_model("gan.safetensors", device="cpu")
    directions = find_directions(loaded, Silent())
    noise, labels = noise_for([SampleSpec(seed, 1) for seed in range(3, 7)], loaded.backend)
    expected = to_uint8(loaded.backend.generate(directions.move(noise, {1: 2.0, 2: -1.5}), labels))
    for seed, image in zip(range(3, 7), expected, strict=True):
        assert np.abs(read_pixels(f"moved/{seed:08d}.png").astype(int) - image).max() <= 1
    # The recorded command makes one of them again, by the directions that are kept.
    code, out, _ = run_cli(capsys, "info", "moved/00000004.png", "--json")
    document = json.loads(out)
    assert document["direction"] == ["2=-1.5", "1=2"]
    code, _, err = run_cli(capsys, *document["command"].split()[1:])
    assert code == 0 and "found" not in err
    assert Path("00000004.png").read_bytes() == Path("moved/00000004.png").read_bytes()
    # Others are added to the folder.
    code, _, err = run_cli(capsys, *command, "--seeds", "3-8", "-o", "moved/", "--class", "bee", "--resume")
    assert code == 0 and len(list(Path("moved").iterdir())) == 6


def test_samples_near_an_image_move_too() -> None:
    image, options = np.zeros((1, 16, 16, 3), np.uint8), SampleOptions(model="m", near=Path("x.png"), temperature=0.2)
    plan = SamplePlan(range(3), (None,), None)
    directions = Directions(torch.eye(8)[3:4], (Direction(0.5, "lightness", 0.9),))
    found = _with_neighbors(Painter(), image, plan, options, lambda noise: directions.move(noise, {1: 2.0}))
    darker = _with_neighbors(Painter(), image, plan, options, lambda noise: directions.move(noise, {1: -2.0}))
    assert found.shape == (4, 16, 16, 3) and found[1:].mean() > 200 and darker[1:].mean() < 55


@pytest.mark.usefixtures("quick")
def test_directions_are_listed_shown_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_cli(capsys, "directions", "gan.safetensors", "-o", "sheet.png", "--seed", 4, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert [each["number"] for each in result["directions"]] == list(range(1, 9)) and result["paths"] == ["sheet.png"]
    shares = [each["share"] for each in result["directions"]]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
    assert all(each["correlation"] >= 0.6 for each in result["directions"] if each["name"])
    sheet = read_pixels("sheet.png")
    assert sheet.shape[0] > 8 * 96 and sheet.shape[1] > 5 * 96
    loaded = load_model("gan.safetensors", device="cpu")
    kept = Path("cache/directions") / f"{loaded.hash}.safetensors"
    good = kept.read_bytes()
    code, out, err = run_cli(capsys, "directions", "gan.safetensors")
    assert code == 0 and len(out.splitlines()) == 9 and "found" not in err
    code, out, _ = run_cli(capsys, "cache", "--json")
    assert [entry["kind"] for entry in json.loads(out)["entries"]] == ["directions"]
    # A damaged file is made again, the same to the bit; without a place to keep it, it is found each time.
    kept.write_bytes(good[:-40] + bytes(40))
    reporter = RecordingReporter()
    again = find_directions(loaded, reporter)
    assert "found again" in reporter.warnings[0] and again.listing() == result["directions"]
    assert torch.equal(again.vectors, safetensors.torch.load(good)["vectors"])
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.touch()
    find_directions(loaded, reporter)
    assert "cannot be kept" in reporter.warnings[-1]


@pytest.mark.usefixtures("quick")
def test_directions_of_a_run_are_kept_beside_its_weights() -> None:
    run = RunDir(Path("run"))
    run.path.mkdir()
    run.metrics.touch()
    run.weights.write_bytes(Path("gan.safetensors").read_bytes())
    first = find_directions(load_model("run", device="cpu"), Silent())
    assert run.directions.exists() and not Path("cache").exists()
    reporter = RecordingReporter()
    assert torch.equal(find_directions(load_model("run", device="cpu"), reporter).vectors, first.vectors)
    assert not reporter.infos
    # Those of other weights are found anew, without a warning: the run was resumed.
    save_backend(run.weights, small_gan(class_counts=(3, 1), gain=9), {})
    other = find_directions(load_model("run", device="cpu"), reporter)
    assert len(reporter.infos) == 1 and not reporter.warnings and not torch.equal(other.vectors, first.vectors)
    again = find_directions(load_model("run", device="cpu"), reporter)
    assert len(reporter.infos) == 1 and torch.equal(again.vectors, other.vectors)


@pytest.mark.usefixtures("quick")
def test_directions_that_do_not_exist_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for value, message in (
        ("1", "not a value of a direction"),
        ("0=1", "not a value of a direction"),
        ("1=nan", "not a value of a direction"),
        ("9=1", "numbered from 1 to 8"),
        ("1=6", "from -5 to 5"),
    ):
        code, _, err = run_cli(capsys, "sample", "gan.safetensors", "--direction", value, "-o", "x.png")
        assert code == 2 and message in err
    with pytest.raises(UsageError, match="two values"):
        SampleOptions(model="gan", direction=((1, 1.0), (1, 2.0)))
    code, _, err = run_cli(capsys, "sample", "gan.safetensors", "--from", "x.png", "--direction", "1=1", "-o", "y.png")
    assert code == 2 and "--near takes it" in err
    save_backend(Path("transformer.safetensors"), build_backend(small("transformer", "tiny")), {})
    code, _, err = run_cli(capsys, "directions", "transformer.safetensors")
    assert code == 2 and "has no directions: its noise chooses tokens" in err
