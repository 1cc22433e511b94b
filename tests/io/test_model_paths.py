"""Which checkpoint a name or a path stands for."""

from pathlib import Path

import pytest

from imggen.errors import CheckpointError
from imggen.io.model_paths import find_weights, holds_weights, shipped_weights


def checkpoint(path: Path) -> None:
    path.write_bytes(b"only its path is used")


def test_precedence_of_names_and_paths(tmp_path: Path) -> None:
    assert find_weights("gan", weights=None, families=("gan",))[1] == "shipped"
    run = tmp_path / "runs" / "gan"
    run.mkdir(parents=True)
    checkpoint(run / "weights.safetensors")
    assert find_weights("gan", weights=None, families=("gan",))[1] == "your run runs/gan"
    for model in (str(run), str(run / "weights.safetensors")):
        assert find_weights(model, weights=None, families=("gan",)) == (run / "weights.safetensors", "given")
    (tmp_path / "runs" / "cats").mkdir()
    checkpoint(tmp_path / "runs" / "cats" / "weights.safetensors")
    assert find_weights("cats", weights=None, families=("gan",))[1] == "your run runs/cats"
    with pytest.raises(CheckpointError) as caught:
        find_weights("ctas", weights=None, families=("gan",))
    assert caught.value.hint == "did you mean 'cats'?"
    with pytest.raises(CheckpointError) as caught:
        find_weights("gna", weights=None, families=("gan",))
    assert caught.value.hint == "did you mean 'gan'?"
    with pytest.raises(CheckpointError, match="no checkpoint"):
        find_weights("gan", weights=tmp_path / "nowhere", families=("gan",))


def test_shipped_models_have_names() -> None:
    assert shipped_weights()["gan"].name == "gan.safetensors"


def test_what_may_hold_weights(tmp_path: Path) -> None:
    assert not holds_weights(tmp_path)
    checkpoint(tmp_path / "weights.safetensors")
    assert holds_weights(tmp_path) and holds_weights(tmp_path / "weights.safetensors")
    assert not holds_weights(tmp_path / "nowhere")
