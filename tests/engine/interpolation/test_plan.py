"""What is chosen, and refused, before a frame is rendered."""

from pathlib import Path
from typing import Any

import pytest

from imggen.engine import interpolation
from imggen.engine.options import InterpolateOptions
from imggen.errors import UsageError
from imggen.reporting import Silent
from tests.engine.interpolation.conftest import interpolate


@pytest.mark.parametrize(
    ("output", "more", "message"),
    [
        ("w.gif", {"seeds": "3"}, "at least two keyframes"),
        ("w.gif", {"frames": 2}, "more keyframes than frames"),
        ("w.gif", {"frames": 100_001}, "too many"),
        ("w.gif", {"fps": 60.0}, "at most 50"),
        ("w.avi", {}, "avi"),
        ("w.gif", {"strip": True}, "gif"),
        ("w/", {"strip": True}, "one image"),
        ("w-%d.png", {}, "folder of frames"),
        ("-", {}, "folder of frames"),
        ("w.gif", {"grid": (2, 1)}, "equal paths"),
        ("w.gif", {"path": "circle"}, "two keyframes, not 3"),
        ("w.gif", {"path": "circle", "seeds": "1,1"}, "two different"),
        ("w.webp", {"zoom": 64, "seeds": "0-63", "grid": (16, 2)}, "too large"),
        ("w.gif", {"label": "owl"}, "no classes"),
        ("w.gif", {"seeds": "0-999999"}, "too many"),
        ("w.gif", {"steady": True}, "details"),
    ],
)
def test_refusals(model: str, output: str, more: dict[str, Any], message: str) -> None:
    before = sorted(Path().iterdir())
    with pytest.raises(UsageError, match=message):
        interpolate(model, output, **more)
    assert sorted(Path().iterdir()) == before


def test_a_dry_run_renders_nothing(model: str) -> None:
    for more, message in (({"frames": 2}, "more keyframes than frames"), ({"path": "circle"}, "two keyframes, not 3")):
        with pytest.raises(UsageError, match=message):
            interpolation.dry_run(InterpolateOptions(model=model, output="w.gif", seeds="1-3", **more), Silent())
    plan = interpolation.dry_run(InterpolateOptions(model=model, output="w.gif", seed=4, loop=True), Silent())
    assert (plan["seeds"], plan["frames"], plan["path"], plan["loop"]) == ("4-7", 160, "spline", True)
    assert plan["keyframes"] == 4 and not Path("w.gif").exists()
