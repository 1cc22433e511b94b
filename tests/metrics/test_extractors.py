"""Feature networks: which files are taken, and what they make of images."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from imggen.engine.checkpoints import save_backend
from imggen.errors import CheckpointError, UsageError
from imggen.io.checkpoint import write_checkpoint
from imggen.metrics.features import Extractor, load_extractor, load_features, tile_starts
from imggen.models import build_backend, presets


def test_extractors_are_checked(tmp_path: Path) -> None:
    other = Extractor(3)
    write_checkpoint(tmp_path / "f.safetensors", other.state_dict(), {"labels": 3}, kind="features")
    features = load_features("f.safetensors", torch.device("cpu"))
    assert features.hash != load_extractor()[1]
    write_checkpoint(tmp_path / "bad.safetensors", other.state_dict(), {"labels": "3"}, kind="features")
    write_checkpoint(tmp_path / "worse.safetensors", other.state_dict(), {"labels": 4}, kind="features")
    for name in ("bad.safetensors", "worse.safetensors", "none.safetensors"):
        with pytest.raises(CheckpointError):
            load_features(name, torch.device("cpu"))
    with pytest.raises(CheckpointError, match="features"):
        save_backend(tmp_path / "m.safetensors", build_backend(presets("gan")["tiny"]), {})
        load_features("m.safetensors", torch.device("cpu"))


def test_missing_parts_of_inception_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pth"):
        load_features("inception:none.pth", torch.device("cpu"))
    Path("text.pth").write_text("not weights", encoding="utf-8")
    with pytest.raises(CheckpointError, match="Inception"):
        load_features("inception:text.pth", torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(UsageError) as caught:
        load_features("inception", torch.device("cpu"))
    assert "imggen[eval]" in str(caught.value.hint)


def test_features_of_every_channel_count_and_size() -> None:
    extractor, _ = load_extractor()
    gray = torch.rand(3, 1, 32, 32) * 2 - 1
    assert torch.equal(extractor(gray), extractor(gray.expand(-1, 3, -1, -1)))
    solid = torch.cat([gray.expand(-1, 3, -1, -1), torch.ones(3, 1, 32, 32)], 1)
    assert torch.allclose(extractor(gray), extractor(solid), atol=1e-4)
    assert extractor(torch.zeros(2, 3, 16, 16)).shape == (2, 256)
    assert extractor(torch.zeros(2, 3, 100, 100)).shape == (2, 384)
    for length in (64, 65, 100, 128):
        found = tile_starts(length)
        assert found[0] == 0 and found[-1] == length - 32 and max(np.diff(found)) <= 32
    row = extractor(gray)
    assert torch.allclose(row[1:2], extractor(gray[1:2]), atol=1e-4)
