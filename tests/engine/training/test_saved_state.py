"""A state file that was damaged or changed is refused before anything else happens, with a hint that helps."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imggen.engine import training
from imggen.engine.options import TrainOptions
from imggen.engine.run_dir import RunDir
from imggen.engine.training import saved_state
from imggen.engine.training.saved_state import SavedState
from imggen.errors import CheckpointError, DataError
from imggen.io.checkpoint import METADATA_HASH, metadata_hash, read_header, write_checkpoint
from imggen.models import build_learner
from imggen.reporting import Silent


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps."""
    folder = tmp_path_factory.mktemp("trained")
    random = np.random.default_rng(0)
    (folder / "imgs").mkdir()
    for index in range(20):
        Image.fromarray(random.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / "imgs" / f"{index}.png")
    given = TrainOptions(
        family="gan", data=str(folder / "imgs"), output=folder / "run", device="cpu", images=8, batch=4, seed=1,
        overrides={"width": 8, "max_width": 16},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGGEN_CACHE", str(folder / "cache"))
        patch.setattr("imggen.engine.training.mode_collapse.NUM_PAIRS", 4)
        training.run(given, Silent())
    return folder / "run"


@pytest.fixture
def run_dir(trained: Path) -> RunDir:
    """A copy of that run."""
    shutil.copytree(trained, "run")
    return RunDir(Path("run"))


def load(run_dir: RunDir) -> None:
    state = SavedState.read(run_dir)
    state.load_into(build_learner(state.config))


def test_flipped_bits_are_noticed(run_dir: RunDir) -> None:
    """In the tensors, the names and the description: every flip is refused, and the hint says what is left."""
    good = run_dir.state.read_bytes()
    header = int.from_bytes(good[:8], "little")
    positions = [9, 8 + header // 2, *range(60, 8 + header, 1009), *range(8 + header, len(good), 30_011), len(good) - 1]
    for number, position in enumerate(positions):
        if good[position : position + 1] == b" " and 8 + header - position < 8:
            continue  # the padding behind the header means nothing
        damaged = bytearray(good)
        damaged[position] ^= 1 << number % 8
        run_dir.state.write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            load(run_dir)
        assert "weights.safetensors is intact" in str(caught.value.hint) and "--force" in str(caught.value.hint)
    run_dir.state.write_bytes(good)
    load(run_dir)


def test_another_dtype_is_noticed(run_dir: RunDir) -> None:
    """Four bytes of a float read as an integer, which torch would convert without a word."""
    good = run_dir.state.read_bytes()
    table = json.loads(good[8 : 8 + int.from_bytes(good[:8], "little")])
    name = next(name for name, entry in table.items() if entry.get("dtype") == "F32" and entry["shape"])
    run_dir.state.write_bytes(good.replace(b'"F32"', b'"I32"', 1))
    with pytest.raises(CheckpointError, match="does not match its own hash"):
        load(run_dir)
    # With the right hash, too
    state = SavedState.read(_restored(run_dir, good))
    state.tensors[name] = state.tensors[name].int()
    with pytest.raises(CheckpointError, match=f"'{name}'"):
        state.load_into(build_learner(state.config))


def _restored(run_dir: RunDir, data: bytes) -> RunDir:
    run_dir.state.write_bytes(data)
    return run_dir


def test_a_changed_description_of_weights_is_noticed(run_dir: RunDir) -> None:
    for path in (run_dir.weights, run_dir.state):
        good = path.read_bytes()
        assert good.count(b'\\"preset\\": \\"tiny\\"') > 0
        path.write_bytes(good.replace(b'\\"preset\\": \\"tiny\\"', b'\\"preset\\": \\"tinu\\"'))
        with pytest.raises(CheckpointError, match="does not match its own hash: its description"):
            read_header(path)
        path.write_bytes(good)


def test_damaged_weights_beside_a_damaged_state_are_not_recommended(run_dir: RunDir) -> None:
    for path in (run_dir.state, run_dir.weights):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError) as caught:
        load(run_dir)
    assert "backup" in str(caught.value.hint) and "intact" not in str(caught.value.hint)


VALUES: tuple[Any, ...] = (None, True, -1, 1.5, 10**30, "x", [1], {}, float("inf"))


def _places(document: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in document.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from _places(value, (*path, name))


def test_wrong_values_are_refused_or_harmless(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every value of the document, replaced by others or left out, with the hash made right again."""
    monkeypatch.setattr(saved_state, "read_tensors", lambda *_: {})
    monkeypatch.setattr(saved_state, "_what_is_left", lambda _: "")
    header, refused = read_header(run_dir.state), set()
    for place in _places(header.document):
        for value in ("absent", *VALUES):
            document = json.loads(json.dumps(header.document))
            inner = document
            for name in place[:-1]:
                inner = inner[name]
            if value == "absent":
                del inner[place[-1]]
            else:
                inner[place[-1]] = value
            try:
                SavedState.read(_with_document(run_dir, {**header.metadata, "imggen": json.dumps(document)}))
            except CheckpointError as error:
                assert "\n" not in error.message
                refused.add(place)
    assert {("steps",), ("images",), ("seconds",), ("budget",), ("budget", "images"), ("settings", "batch")} <= refused
    assert {("learner",), ("data_key",), ("config", "width"), ("kind",), ("format",)} <= refused


def _with_document(run_dir: RunDir, metadata: dict[str, str]) -> RunDir:
    """The state with another description, the right hash of it, and no tensors."""
    text = json.dumps({"__metadata__": {**metadata, METADATA_HASH: metadata_hash(metadata)}}).encode()
    run_dir.state.write_bytes(len(text).to_bytes(8, "little") + text)
    return run_dir


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("adam_g.999.step", torch.tensor(1.0), "belongs to no weight"),
        ("adam_g.step", torch.tensor(1.0), "belongs to no weight"),
        ("adam_g.-1.step", torch.tensor(1.0), "belongs to no weight"),
        ("adam_g.0.steps", torch.tensor(1.0), "does not have exp_avg"),
        ("adam_g.0.step", torch.tensor(1), "does not fit"),
        ("adam_g.0.exp_avg", torch.ones(3), "does not fit"),
    ],
)
def test_moments_of_another_optimizer_are_refused(run_dir: RunDir, name: str, tensor: Any, message: str) -> None:
    state = SavedState.read(run_dir)
    assert "adam_g.0.step" in state.tensors
    state.tensors[name] = tensor
    with pytest.raises(CheckpointError, match=message):
        state.load_into(build_learner(state.config))


def test_a_description_that_could_not_be_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imggen.io.checkpoint.MAX_HEADER_BYTES", 2_000)
    with pytest.raises(DataError, match="too long"):
        write_checkpoint(tmp_path / "x", {"a": torch.ones(1)}, {"note": "x" * 2_000}, kind="state")
    assert not list(tmp_path.iterdir())
