"""Hostile checkpoints, states, extractors and configurations: what `sample`, `--resume`, `--features`, `--config` read.

A file is refused with exit code 3 (2 for a configuration), or it works. Half of the inputs have right hashes again, so
that what lies behind the hashes is reached: an attacker can compute them, a bad disk cannot.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import typer

from imggen.engine.checkpoints import load_backend, save_backend
from imggen.engine.run_dir import RunDir
from imggen.engine.training import saved_state
from imggen.engine.training.saved_state import SavedState
from imggen.errors import CheckpointError, ImggenError, UsageError
from imggen.io.checkpoint import METADATA_HASH, TENSORS_HASH, metadata_hash, write_checkpoint
from imggen.metrics import features
from imggen.models import build_backend, build_learner, presets
from imggen.models.config import ModelConfig
from imggen.models.learner import NonFiniteError
from tests.cli.snapshot import commands
from tests.faults.hostile import Target

TINY = {"size": 16, "width": 4, "max_width": 4, "z_dim": 4}
# Of what a valid model of a hostile configuration may take: larger ones are refused before they are run.
MAX_PARAMETERS = 2_000_000


@functools.cache
def folder() -> Path:
    """Where the inputs are written, in memory if there is such a place."""
    memory = Path("/dev/shm")
    made = tempfile.mkdtemp(prefix="hostile", dir=memory if memory.is_dir() else None)
    return Path(made)


def tiny_config(**more: Any) -> ModelConfig:
    """A GAN of a few hundred weights."""
    return presets("gan")["tiny"].with_overrides(**{**TINY, **more})


def _file_bytes(write: Callable[[Path], None]) -> bytes:
    path = folder() / "seed"
    write(path)
    return path.read_bytes()


# Right hashes for changed files


def parts_of(data: bytes) -> tuple[dict[str, Any], bytes] | None:
    """The header and the tensors' bytes of a safetensors file, None if they cannot be separated."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return None
    return (header, data[8 + length :]) if isinstance(header, dict) else None


def join(header: dict[str, Any], body: bytes) -> bytes:
    """The inverse of `parts_of`."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + body


def with_right_hashes(data: bytes) -> bytes:
    """The file with the hashes of what it holds now, if it still has a header."""
    parts = parts_of(data)
    metadata = parts[0].get("__metadata__") if parts else None
    if parts is None or not isinstance(metadata, dict) or {*map(type, metadata.values())} != {str}:
        return data
    digest = hashlib.sha256()
    try:
        for name, entry in sorted((name, entry) for name, entry in parts[0].items() if name != "__metadata__"):
            dtype = torch_name(entry["dtype"])
            begin, end = entry["data_offsets"]
            digest.update(f"{name} {dtype} {entry['shape']}\n".encode("utf-8", "surrogatepass"))
            digest.update(parts[1][begin:end])
    except (KeyError, TypeError, ValueError, AttributeError):
        pass  # the table itself is damaged: then it is refused before any hash
    metadata[TENSORS_HASH] = "0x" + digest.hexdigest()
    metadata[METADATA_HASH] = metadata_hash(metadata)
    return join(*parts)


def torch_name(dtype: str) -> str:
    """torch.float32 for F32."""
    from imggen.io.tensor_file import DTYPE_NAMES

    return next((str(known) for known, name in DTYPE_NAMES.items() if name == dtype), dtype)


# Changes of the description, which bytes changed at random seldom reach

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 16, 17, 1.5, -0.0, 1e-300, 1e300, 10**6, 10**15, 10**16, 2**53, 2**63, 2**64,
    10**400, float("nan"), float("inf"), "", "x", "gan", "\0", "\ud800", "0", "../x", "9" * 300, [], [0], [[]], {},
    {"a": 1}, [1] * 5000, ["x"] * 200,
)  # fmt: skip
DTYPE_CHOICES = ("F32", "F16", "BF16", "F64", "I32", "I64", "U8", "BOOL", "F8")


def _nested(depth: int, *, as_list: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if as_list else {"a": value}
    return value


def edit(document: Any, chance: np.random.Generator) -> Any:
    """Change one value somewhere in a JSON document, or the keys of an object."""
    containers = [document]
    for container in containers:
        inner = container.values() if isinstance(container, dict) else container
        containers += [value for value in inner if isinstance(value, dict | list) and value]
    container = containers[int(chance.integers(len(containers)))]
    keys = list(container) if isinstance(container, dict) else list(range(len(container)))
    if not keys:
        return document
    key, kind = keys[int(chance.integers(len(keys)))], int(chance.integers(8))
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[str(key) + "x"] = container.pop(key)
    elif kind == 2:
        container[key] = _nested(int(chance.choice([2, 9, 13, 60, 400])), as_list=bool(chance.integers(2)))
    elif kind == 3:
        container[key] = copy.deepcopy(container[keys[int(chance.integers(len(keys)))]])
    else:
        container[key] = copy.deepcopy(ODD_VALUES[int(chance.integers(len(ODD_VALUES)))])
    return document


def repair(data: bytes, seeds: Callable[[], list[bytes]]) -> bytes:
    """Edit the description, the table or the tensors, and make the hashes right.

    Where the damage at hand left nothing to parse, a valid file is edited, as the damage chooses.
    """
    chance = np.random.default_rng(list(hashlib.sha256(data).digest()[:16]))
    parts = parts_of(data)
    if parts is None or not isinstance(parts[0].get("__metadata__"), dict):
        valid = seeds()
        parts = parts_of(valid[int(chance.integers(len(valid)))])
        assert parts is not None
    header, body = parts
    metadata = header["__metadata__"]
    with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError):
        document = json.loads(metadata["imggen"])
        for _ in range(int(chance.integers(1, 3))):
            kind = chance.random()
            if kind < 0.6:
                edit(document, chance)
            elif kind < 0.9:
                _edit_table(header, chance)
            else:
                at = int(chance.integers(len(body)))
                body = body[:at] + chance.bytes(4) + body[at + 4 :]
        metadata["imggen"] = json.dumps(document)
        if chance.random() < 0.02:
            metadata["imggen"] = metadata["imggen"].replace("{", '{"kind": "weights", "format": 1,', 1)
    return with_right_hashes(join(header, body))


def _edit_table(header: dict[str, Any], chance: np.random.Generator) -> None:
    names = [name for name in header if name != "__metadata__"]
    entry = header[names[int(chance.integers(len(names)))]]
    kind = int(chance.integers(4))
    if kind == 0:
        entry["dtype"] = str(chance.choice(DTYPE_CHOICES))
    elif kind == 1:
        entry["shape"] = [int(np.prod(entry["shape"]))]
    elif kind == 2:
        entry["shape"] = entry["shape"][::-1]
    else:
        edit(entry, chance)


# The targets


@functools.cache
def weights_seeds() -> list[bytes]:
    """A GAN with classes, one without, and the textbook's."""
    seeds = []
    for number, more in enumerate(({"classes": ("a", "b"), "class_counts": (3, 4)}, {}, {"channels": 1})):
        torch.manual_seed(number)
        backend = build_backend(tiny_config(**more))
        provenance = {"command": "imggen train gan --data x", "images": 128, "seconds": 1.5, "seed": 3}
        seeds.append(_file_bytes(lambda path, b=backend, p=provenance: save_backend(path, b, p, thumbnail=b"png")))
    return seeds


def run_weights(data: bytes) -> bool:
    """What `imggen sample FILE -n 1` does with a checkpoint."""
    path = folder() / "w.safetensors"
    path.write_bytes(data)
    try:
        backend = load_backend(path, device="cpu").backend
    except CheckpointError as error:
        _check_message(error)
        return False
    if sum(parameter.numel() for parameter in backend.parameters()) > MAX_PARAMETERS:
        return True
    labels = torch.zeros(1, dtype=torch.int64) if backend.classes else None
    with torch.inference_mode():
        images = backend.generate(torch.zeros(1, *backend.noise_shape), labels)
    assert images.shape == (1, *backend.config.image_shape)
    return True


def _check_message(error: ImggenError) -> None:
    assert error.exit_code in (2, 3) and error.hint and "\n" not in error.message
    assert len(error.message) < 1000


@functools.cache
def state_seeds() -> list[bytes]:
    """The state of a GAN after two steps."""
    learner = build_learner(tiny_config())
    torch.manual_seed(0)
    learner.set_dataset_size(100)
    for images_seen in (0, 4):
        learner.step(torch.rand(4, 3, 16, 16), None, 0.1, images_seen)
    tensors, learned = learner.state()
    settings = {
        "preset": "tiny", "size": 16, "channels": 3, "crop": "center", "split": "train", "use_classes": True,
        "batch": 4, "seed": 3, "mirror": False,
    }  # fmt: skip
    document = {
        "config": tiny_config().to_json(), "settings": settings, "learner": learned, "steps": 2, "images": 8,
        "rollbacks": 0, "budget": {"images": 100, "seconds": None}, "seconds": 1.5, "data_wait": 0.1, "data_key": "k",
    }  # fmt: skip
    return [_file_bytes(lambda path: write_checkpoint(path, tensors, document, kind="state"))]


def run_state(data: bytes) -> bool:
    """What `imggen train --resume` does with a state, up to its first step."""
    run_dir = RunDir(folder() / "run")
    run_dir.path.mkdir(exist_ok=True)
    run_dir.state.write_bytes(data)
    try:
        with patch.object(saved_state, "_what_is_left", lambda run_dir: "start the run again with --force"):
            state = SavedState.read(run_dir)
    except CheckpointError as error:
        _check_message(error)
        return False
    if state.config.size > 64 or max(getattr(state.config, name) for name in ("width", "max_width", "z_dim")) > 64:
        return True  # a user may train such a model: its tensors would not fit, but building it takes long
    learner = build_learner(state.config)
    learner.set_dataset_size(100)
    try:
        state.load_into(learner)
    except CheckpointError as error:
        _check_message(error)
        return False
    config = state.config
    labels = torch.zeros(2, dtype=torch.int64) if config.classes else None
    progress = state.budget.progress(state.images, state.seconds)
    with contextlib.suppress(NonFiniteError):  # rolled back, exit code 5
        learner.step(torch.zeros(2, *config.image_shape), labels, progress, state.images)
    return True


@functools.cache
def features_seeds() -> list[bytes]:
    """A feature extractor of another number of classes; only its width is small."""
    torch.manual_seed(0)
    with _narrow():
        tensors = {name: tensor.half() for name, tensor in features.Extractor(3).state_dict().items()}
        tensors |= {name: tensor.long() for name, tensor in tensors.items() if "num_batches" in name}
        return [_file_bytes(lambda path: write_checkpoint(path, tensors, {"labels": 3}, kind="features"))]


@contextlib.contextmanager
def _narrow() -> Any:
    width, features.WIDTH = features.WIDTH, 4
    try:
        yield
    finally:
        features.WIDTH = width


def run_features(data: bytes) -> bool:
    """What `imggen evaluate --features FILE` does with it."""
    path = folder() / "f.safetensors"
    path.write_bytes(data)
    try:
        with _narrow():
            extractor, _ = features.load_extractor(path)
    except CheckpointError as error:
        _check_message(error)
        return False
    with torch.inference_mode():
        extractor(torch.zeros(1, 3, 32, 32))
    return True


CONFIG = b"""# settings of a run
data = "imgs"
size = 16
batch = 32
width = 8
cosine = true
learning_rate = 2e-4
minutes = 1.5
crop = 'center'
no_classes = false
output = "run"
seed = 9223372036854775807
precision = "fp32"
"""
SAMPLE_CONFIG = b'count = 5\nseeds = "1-3,7"\ntemperature = 0.5\nclass = "3"\noutput = "x.png"\nresume = true\n'


@functools.cache
def _commands() -> tuple[Any, Any]:
    made = commands()
    return made["train gan"], made["sample"]


def run_config(data: bytes) -> bool:
    """What --config does with a file: reading it, and taking its values as options."""
    path = folder() / "c.toml"
    path.write_bytes(data)
    train, sample = _commands()
    command, words = (sample, ["gan"]) if b"count" in data else (train, ["--data", "x"])
    try:
        with contextlib.suppress(typer.TyperException):  # exit code 2
            command.make_context("x", [*words, "--config", str(path)], auto_envvar_prefix="IMGGEN_X").close()
            return True
    except UsageError as error:
        assert error.exit_code == 2 and len(error.message) < 10_000
    except SystemExit:  # help = true
        pass
    return False


def deep_config(data: bytes) -> bytes:
    """The file with one value replaced by an odd one of TOML."""
    chance = np.random.default_rng(list(hashlib.sha256(data).digest()[:16]))
    lines = data.split(b"\n")
    number = int(chance.integers(len(lines)))
    depth = int(chance.choice([2, 20, 500, 5000]))
    odd = (
        b"[" * depth + b"]" * depth, b"{a=" * depth + b"1" + b"}" * depth, b"9" * depth, b"0x" + b"f" * depth, b"inf",
        b"nan", b"-1e999", b"1979-05-27T07:32:00Z", b"07:32:00", b'"\\u0000"', b'""', b"[]", b"[[]]", b'["a", 1]',
        b"{}", b'{a = "b"}', b'"""\n"""', b"'\x1b[31m'", b'"\\ud800"', b"1_000", b"true", b'"' + b"x" * depth + b'"',
    )  # fmt: skip
    name = lines[number].split(b"=")[0] or b"x"
    lines[number] = name + b"= " + odd[int(chance.integers(len(odd)))]
    if chance.random() < 0.1:
        lines.append(b".".join([b"a"] * depth) + b" = 1")
    return b"\n".join(lines)


TARGETS = {
    "weights": Target(weights_seeds, run_weights, functools.partial(repair, seeds=weights_seeds)),
    "state": Target(state_seeds, run_state, functools.partial(repair, seeds=state_seeds)),
    "features": Target(features_seeds, run_features, functools.partial(repair, seeds=features_seeds)),
    "config": Target(lambda: [CONFIG, SAMPLE_CONFIG], run_config, deep_config),
}
