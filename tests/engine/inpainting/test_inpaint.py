"""Seeds, sheets, commands and dry runs of `imggen inpaint`, and a shipped model."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imggen.engine import inpainting
from imggen.engine.info import describe_file
from imggen.engine.options import InpaintOptions
from imggen.reporting import Silent
from tests.engine.inpainting.conftest import Inpaint, random_image, save_mask, square_mask
from tests.helpers import read_pixels, run_cli


def test_a_seed_gives_its_own_fill_every_time(inpaint: Inpaint) -> None:
    random_image("RGB").save("x.png")
    mask = save_mask(square_mask())
    result = inpaint("x.png", "y.png", mask=mask, count=3)
    assert result["paths"] == ["y-1.png", "y-2.png", "y-3.png"]
    assert len({read_pixels(path).tobytes() for path in result["paths"]}) == 3
    inpaint("x.png", "one.png", mask=mask, seed=7)
    assert np.array_equal(read_pixels("one.png"), read_pixels("y-3.png"))
    inpaint("x.png", "p-%03d.png", mask=mask, count=2)
    assert np.array_equal(read_pixels("p-006.png"), read_pixels("y-2.png"))


def test_sheets(inpaint: Inpaint) -> None:
    random_image("RGB").save("x.png")
    inpaint("x.png", "s.png", mask=save_mask(square_mask()), count=3, sheet=True)
    sheet = read_pixels("s.png")
    assert sheet.shape == (24, 5 * 22 + 2, 3)
    assert np.array_equal(sheet[2:22, 2:22], read_pixels("x.png")) and (sheet[2 + 8, 24 + 8] == 128).all()
    inpaint("x.png", "y.png", mask=Path("m.png"), seed=7)
    assert np.array_equal(sheet[2:22, -22:-2], read_pixels("y.png"))


def test_a_shipped_model_fills() -> None:
    radius = np.hypot(*(np.mgrid[:32, :32] - 15.5))
    Image.fromarray(np.where(abs(radius - 8) < 2, 255, 0).astype(np.uint8)).save("x.png")
    options = InpaintOptions(
        model="transformer-digits",
        image=Path("x.png"),
        output="y.png",
        boxes=((16, 10, 8, 8),),
        label="0",
        seed=1,
        temperature=0.8,
        device="cpu",
    )
    result = inpainting.run(options, Silent())
    mask = np.zeros((32, 32), bool)
    mask[10:18, 16:24] = True
    before, after = read_pixels("x.png").astype(float), read_pixels("y.png").astype(float)
    assert np.array_equal(before[~mask], after[~mask]) and result["images"][0]["masked_fraction"] == 0.0625
    error_of_mean = np.abs(before[mask] - before[mask].mean()).mean()
    assert np.abs(before - after)[mask].mean() < error_of_mean


@pytest.mark.parametrize("more", [{"boxes": ((1, 2, 3, 4),), "grow": 1}, {"expand": (1, 2, 3, 4), "context": 0.0}, {}])
def test_the_command_in_a_file_makes_it_again(
    inpaint: Inpaint, more: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    random_image("RGB").save("x y.png")
    inpaint("x y.png", "y.png", mask=save_mask(square_mask()), **more)
    command = shlex.split(describe_file(Path("y.png"))["command"])
    first = Path("y.png").read_bytes()
    Path("y.png").unlink()
    assert run_cli(capsys, *command[1:], "--quiet")[0] == 0 and Path("y.png").read_bytes() == first


@pytest.mark.parametrize("sheet", [False, True])
def test_the_command_names_the_seed_of_each_of_several_fills(
    inpaint: Inpaint, sheet: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    random_image("RGB").save("x.png")
    result = inpaint("x.png", "y.png", boxes=((1, 2, 3, 4),), seed=0, count=2, sheet=sheet)
    for seed, name in enumerate(result["paths"]):
        described, first = describe_file(Path(name)), Path(name).read_bytes()
        assert described["seed"] == seed and f"--seed {seed}" in described["command"]
        Path(name).unlink()
        assert run_cli(capsys, *shlex.split(described["command"])[1:], "--quiet")[0] == 0
        assert Path(name).read_bytes() == first


def test_a_dry_run_writes_nothing(gan_files: dict[int, str]) -> None:
    random_image("RGB").save("x.png")
    options = InpaintOptions(model=gan_files[3], image=Path("x.png"), output="z.png", boxes=((0, 0, 4, 5),), count=2)
    plan = inpainting.dry_run(options, Silent())
    assert plan["images"] == [{"image": "x.png", "masked_fraction": 0.05, "tiles": 1, "paths": ["z-1.png", "z-2.png"]}]
    assert not list(Path().glob("z*")) and json.dumps(plan)
