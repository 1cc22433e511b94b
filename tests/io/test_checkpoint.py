"""Checkpoints are complete or not there, and no other file is taken for one."""

import errno
import itertools
import json
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from imggen.engine.checkpoints import load_backend, save_backend
from imggen.errors import CheckpointError, DataError
from imggen.io import atomic
from imggen.io.checkpoint import DTYPE_BYTES, read_header, read_tensors, weights_hash, write_checkpoint
from imggen.io.tensor_file import DTYPE_NAMES
from imggen.models import build_backend, presets


def tensors() -> dict[str, torch.Tensor]:
    shared = torch.arange(6.0)
    return {
        "a": shared.reshape(2, 3).T,
        "b": shared,
        "half": torch.tensor([1.5], dtype=torch.float16),
        "count": torch.tensor(3),
    }


def written(path: Path, kind: str = "weights") -> Path:
    write_checkpoint(path, tensors(), {"config": {"family": "gan", "preset": "tiny"}}, kind=kind, thumbnail=b"png")
    return path


def raw(path: Path, table: dict[str, Any] | str, body: bytes = b"") -> Path:
    text = (table if isinstance(table, str) else json.dumps(table)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def test_round_trip(tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors")
    header = read_header(path, kind="weights")
    loaded = read_tensors(path, header, tensors())
    for name, tensor in tensors().items():
        assert torch.equal(loaded[name].to(tensor.dtype), tensor)
    assert loaded["half"].dtype == torch.float32
    assert header.metadata["modelspec.architecture"] == "imggen/gan/tiny"
    assert header.metadata["modelspec.thumbnail"].startswith("data:image/png;base64,")
    assert len(weights_hash(header)) == 12
    assert weights_hash(read_header(written(tmp_path / "again.safetensors"))) == weights_hash(header)
    state = written(tmp_path / "s.safetensors", "state")
    assert read_tensors(state, read_header(state), None)["half"].dtype == torch.float16
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_other_programs_read_it_as_safetensors(tmp_path: Path) -> None:
    """And what they write, with the same metadata, is read as what was written."""
    path = written(tmp_path / "w.safetensors")
    theirs = load_file(path)
    assert theirs.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert theirs[name].dtype == tensor.dtype and torch.equal(theirs[name], tensor)
    with safe_open(path, "pt") as file:
        save_file(theirs, tmp_path / "theirs", metadata=file.metadata())
    again = read_tensors(tmp_path / "theirs", read_header(tmp_path / "theirs"), tensors())
    assert all(torch.equal(again[name], tensor.to(again[name].dtype)) for name, tensor in tensors().items())


@pytest.mark.parametrize("dtype", sorted(DTYPE_BYTES))
def test_every_dtype_and_empty_tensors_survive(tmp_path: Path, dtype: str) -> None:
    kind = next(kind for kind, name in DTYPE_NAMES.items() if name == dtype)
    given = {"x": torch.arange(6).reshape(2, 3).to(kind), "none": torch.zeros(0, 3).to(kind)}
    write_checkpoint(tmp_path / "s", given, {}, kind="state")
    again = read_tensors(tmp_path / "s", read_header(tmp_path / "s"), None)
    assert all(again[name].dtype == kind for name in given)
    assert all(torch.equal(again[name].double(), given[name].double()) for name in given)


def test_reading_a_header_needs_no_torch(tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors")
    code = (
        "import sys; from pathlib import Path; from imggen.io.checkpoint import read_header;"
        f"read_header(Path({str(path)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


META = {"imggen": json.dumps({"format": 1, "kind": "weights"})}


@pytest.mark.parametrize(
    ("table", "body", "reason"),
    [
        ("{ ", b"", "damaged"),
        ("[]", b"", "damaged"),
        ('{"a": 1, "a": 2}', b"", "damaged"),
        ("[" * 100_000, b"", "damaged"),
        ({"__metadata__": {"imggen": 3}}, b"", "damaged"),
        ({}, b"", "not one of imggen's"),
        ({"__metadata__": {"imggen": "{"}}, b"", "description"),
        ({"__metadata__": {"imggen": "[]"}}, b"", "description"),
        ({"__metadata__": {"imggen": json.dumps({"format": 2, "kind": "weights"})}}, b"", "format 2"),
        ({"__metadata__": {"imggen": json.dumps({"format": 1, "kind": "state"})}}, b"", "state"),
        ({"__metadata__": META, "a": entry([2], 0, 4)}, bytes(4), "entry 'a'"),
        ({"__metadata__": META, "a": entry([1], 0, 4, "F7")}, bytes(4), "entry 'a'"),
        ({"__metadata__": META, "a": entry([-1], 0, 4)}, bytes(4), "entry 'a'"),
        ({"__metadata__": META, "a": entry([2**40, 2**40], 0, 4)}, bytes(4), "entry 'a'"),
        ({"__metadata__": META, "a": {"dtype": "F32"}}, bytes(4), "entry 'a'"),
        ({"__metadata__": META, "a": entry([1], 0, 4), "b": entry([1], 2, 6)}, bytes(6), "overlap"),
        ({"__metadata__": META, "a": entry([1], 4, 8)}, bytes(8), "overlap"),
        ({"__metadata__": META, "a": entry([1], 0, 4)}, bytes(9), "cut short"),
        ({"__metadata__": META, "a": entry([1], 0, 4)}, b"", "cut short"),
    ],
)
def test_defects_have_a_clear_line(tmp_path: Path, table: Any, body: bytes, reason: str) -> None:
    path = raw(tmp_path / "w.safetensors", table, body)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_header(path, kind="weights")
    assert caught.value.exit_code == 3 and caught.value.hint and "\n" not in caught.value.message


def test_other_files(tmp_path: Path) -> None:
    for name, data, reason in (
        ("a.pt", b"PK\x03\x04" + bytes(99), "pickle"),
        ("b.pkl", b"\x80\x04" + bytes(99), "pickle"),
        ("v.npz", b"PK\x03\x04" + bytes(99), "not a safetensors"),
        ("c", b"", "not a safetensors"),
        ("d", bytes(8), "not a safetensors"),
        ("e", struct.pack("<Q", 2**62) + bytes(99), "not a safetensors"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=reason):
            read_header(tmp_path / name)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_header(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_header(tmp_path)


def test_tensors_must_fit_and_be_finite(tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors")
    header = read_header(path)
    given = tensors()
    for wrong, reason in (
        ({**given, "more": torch.ones(1)}, "lacks more"),
        ({k: v for k, v in given.items() if k != "a"}, "unknown tensors: a"),
        ({**given, "a": torch.ones(2, 3)}, r"'a' is \(3, 2\), not \(2, 3\)"),
        ({**given, "count": torch.tensor(3.0)}, "'count' is I64, not F32"),
        ({**given, "count": torch.tensor(3, dtype=torch.int32)}, "'count' is I64, not I32"),
        ({**given, "half": torch.tensor([True])}, "'half' is F16, not BOOL"),
    ):
        with pytest.raises(CheckpointError, match=reason):
            read_tensors(path, header, wrong)
    for kind, value in (("state", torch.tensor([torch.nan])), ("weights", torch.tensor([1e300]).double())):
        write_checkpoint(path, {"a": value}, {}, kind=kind)
        with pytest.raises(CheckpointError, match="not finite"):
            read_tensors(path, read_header(path), None)


def test_a_small_file_cannot_ask_for_a_large_model(tmp_path: Path) -> None:
    backend = build_backend(presets("gan")["tiny"].with_overrides(size=16, width=4, max_width=4))
    path = tmp_path / "w.safetensors"
    save_backend(path, backend, {})
    assert load_backend(path, device="cpu").backend.config.image_shape == (3, 16, 16)
    for changed in ({"width": 1024, "max_width": 4096}, {"size": 10**6}, {"family": "vqgan"}, {"z_dim": -1}):
        document = {"config": {**backend.config.to_json(), **changed}}
        write_checkpoint(path, backend.state_dict(), document, kind="weights")
        with pytest.raises(CheckpointError):
            load_backend(path, device="cpu")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_never_give_another_error(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "w.safetensors"
    if not path.exists():
        written(path)
    good = path.read_bytes()
    kind = data.draw(st.sampled_from(["random", "changed", "cut"]))
    if kind == "random":
        bad = data.draw(st.binary(max_size=300))
    elif kind == "changed":
        position = data.draw(st.integers(0, len(good) - 1))
        bad = good[:position] + bytes([data.draw(st.integers(0, 255))]) + good[position + 1 :]
    else:
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    other = tmp_path / "bad.safetensors"
    other.write_bytes(bad)
    try:
        header = read_header(other)
        read_tensors(other, header, None)
    except CheckpointError as error:
        assert "\n" not in error.message


@pytest.mark.slow
def test_kill_while_writing_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"

    def keep_writing() -> None:
        torch.set_num_threads(1)
        for number in itertools.count():
            write_checkpoint(path, {"a": torch.full((500_000,), float(number))}, {}, kind="state")

    for pause in (0.05, 0.15):
        path.unlink(missing_ok=True)
        process = multiprocessing.get_context("fork").Process(target=keep_writing)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork of a process with threads
            process.start()
        while not path.exists():
            assert process.is_alive()
            time.sleep(0.01)
        time.sleep(pause)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        values = read_tensors(path, read_header(path), None)["a"]
        assert (values == values[0]).all()


def test_every_length_of_header_can_be_read(tmp_path: Path) -> None:
    """One in 32 begins with the byte that a pickle begins with."""
    for length in range(0, 600, 8):
        path = tmp_path / f"{length}.safetensors"
        write_checkpoint(path, {"x": torch.ones(2)}, {"note": "n" * length}, kind="state")
        assert read_header(path).document["note"] == "n" * length


def test_a_changed_number_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_checkpoint(path, {"x": torch.arange(4.0)}, {"config": {}}, kind="weights")
    assert torch.equal(read_tensors(path, read_header(path), None)["x"], torch.arange(4.0))
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="own hash"):
        read_tensors(path, read_header(path), None)


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "w.safetensors")
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_sync", full)
        with pytest.raises(DataError, match="No space") as caught:
            written(path)
    assert caught.value.hint and "space" in caught.value.hint
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["w.safetensors"]
