"""Small training runs: options for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imggen.engine.options import TrainOptions

MakeOptions = Callable[..., TrainOptions]


@pytest.fixture
def options() -> MakeOptions:
    """Options of a run of a narrow GAN of 16 pixels: 12 steps on the CPU."""

    def make(data: Path, output: str, **more: Any) -> TrainOptions:
        defaults: dict[str, Any] = {"images": 12 * 16, "batch": 16, "seed": 5, "size": 16, "preset": "tiny"}
        overrides = {"width": 8, "max_width": 16}
        return TrainOptions(
            family="gan", data=str(data), output=Path(output), device="cpu", overrides=overrides, **{**defaults, **more}
        )

    return make
