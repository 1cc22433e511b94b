"""One safetensors file a checkpoint: tensors, and one JSON document in the metadata. Nothing is ever pickled."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imggen.errors import CheckpointError
from imggen.io.atomic import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
KINDS = ("weights", "state", "features")
SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
_LONGEST_HEADER = 64 << 20
_MOST_TENSORS = 100_000
_MOST_DIMENSIONS = 16


@dataclass(frozen=True)
class TensorInfo:
    """What the header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself; `size` is the file's, in bytes."""

    kind: str
    document: dict[str, Any]
    tensors: dict[str, TensorInfo]
    size: int
    metadata: dict[str, str]


def write_checkpoint(
    path: Path,
    tensors: Mapping[str, Tensor],
    document: Mapping[str, Any],
    *,
    kind: str,
    thumbnail: bytes | None = None,
) -> None:
    """Write atomically and durably; all but states also carry the ModelSpec 1.0.1 keys. Raises DataError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # A copy each: safetensors refuses tensors that share memory or are not contiguous.
    ready = {name: _own(tensor) for name, tensor in sorted(tensors.items())}
    metadata = {"imggen": json.dumps({**document, "format": FORMAT, "kind": kind})}
    if kind != "state":
        config = document.get("config", {})
        name = "imggen/features" if kind == "features" else f"imggen/{config.get('family')}/{config.get('preset')}"
        metadata |= {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": name,
            "modelspec.implementation": "imggen",
            "modelspec.title": name,
            "modelspec.date": time.strftime("%Y-%m-%d", time.gmtime()),
            "modelspec.hash_sha256": "0x" + _hash(ready),
        }
        if thumbnail is not None:
            metadata["modelspec.thumbnail"] = "data:image/png;base64," + base64.b64encode(thumbnail).decode()
    with atomic_path(path, durable=True) as sibling:
        try:
            save_file(ready, sibling, metadata=metadata)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error
        # safetensors writes mode 0600; the user's umask decides, as for any other file.
        mask = os.umask(0)
        os.umask(mask)
        sibling.chmod(0o666 & ~mask)


def _own(tensor: Tensor) -> Tensor:
    import torch

    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format).contiguous()


def _hash(tensors: Mapping[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_hash(header: Header) -> str:
    """The first 12 hexadecimal digits of the hash over all tensors."""
    return header.metadata.get("modelspec.hash_sha256", "")[2:14]


def read_header(path: Path, kind: str | None = None) -> Header:
    """Read and check everything but the tensors, without torch. Raises CheckpointError in one clear line."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= min(_LONGEST_HEADER, size - 8):
                # Not before the length: a header of 640 bytes begins with a pickle's first byte too.
                if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
                    raise _bad(path, "is a pickle", "imggen opens safetensors only: a pickle can run anything")
                raise _bad(path, "is not a safetensors file, or was cut short")
            raw = file.read(length)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}", "imggen models lists what there is") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    try:
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _bad(path, "has a damaged header") from error
    if not isinstance(table, dict) or len(table) > _MOST_TENSORS:
        raise _bad(path, "has a damaged header")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _bad(path, "has a damaged header")
    tensors = _tensors(path, table, size - 8 - length)
    document = _document(path, metadata, kind)
    return Header(document["kind"], document, tensors, size, metadata)


def _bad(path: Path, what: str, hint: str | None = None) -> CheckpointError:
    return CheckpointError(f"{path} {what}", hint or "copy it again, or use another checkpoint")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _tensors(path: Path, table: dict[str, Any], room: int) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    spans = []
    for name, entry in table.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise _bad(path, f"has a damaged entry '{name[:80]}'")
        dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
        good = isinstance(dtype, str) and dtype in SIZES
        good = good and isinstance(shape, list) and len(shape) <= _MOST_DIMENSIONS and all(map(_count, shape))
        good = good and isinstance(span, list) and len(span) == 2 and all(map(_count, span))
        if not good or span[1] - span[0] != math.prod(shape) * SIZES[dtype]:
            raise _bad(path, f"has a damaged entry '{name[:80]}'")
        found[name] = TensorInfo(dtype, tuple(shape))
        spans.append((span[0], span[1]))
    place = 0
    for begin, end in sorted(spans):
        if begin != place:
            raise _bad(path, "has tensors that overlap or leave gaps")
        place = end
    if place != room:
        raise _bad(path, "was cut short, or has bytes that belong to no tensor")
    return found


def _document(path: Path, metadata: dict[str, str], kind: str | None) -> dict[str, Any]:
    if "imggen" not in metadata:
        raise _bad(path, "is a safetensors file, but not one of imggen's", "imggen models lists what there is")
    try:
        document = json.loads(metadata["imggen"])
    except (ValueError, RecursionError) as error:
        raise _bad(path, "has a damaged description") from error
    if not isinstance(document, dict) or document.get("kind") not in KINDS or type(document.get("format")) is not int:
        raise _bad(path, "has a damaged description")
    if document["format"] != FORMAT:
        raise _bad(path, f"has format {document['format']}; this imggen reads {FORMAT}", "pip install -U imggen")
    if kind is not None and document["kind"] != kind:
        raise _bad(
            path, f"holds {document['kind']}, not {kind}", "weights.safetensors draws, state.safetensors resumes"
        )
    return document


def read_tensors(path: Path, header: Header, expected: Mapping[str, tuple[int, ...]] | None) -> dict[str, Tensor]:
    """Read all tensors; names and shapes must be those of `expected`, and every number finite.

    Weights and features come as float32 whatever they are stored in; a state comes as it is. Raises CheckpointError.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if expected is not None:
        _compare(path, header, expected)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _bad(path, f"cannot be read: {error}") from error
    if header.kind != "state" and header.metadata.get("modelspec.hash_sha256") != "0x" + _hash(tensors):
        raise _bad(path, "does not match its own hash: it was damaged or changed")
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            if not torch.isfinite(tensor).all():
                raise _bad(path, f"holds numbers that are not finite ('{name}')", "use an earlier checkpoint")
            if header.kind != "state":
                tensors[name] = tensor.float()
    return tensors


def _compare(path: Path, header: Header, expected: Mapping[str, tuple[int, ...]]) -> None:
    missing = sorted(set(expected) - set(header.tensors))
    extra = sorted(set(header.tensors) - set(expected))
    if missing or extra:
        words = f"lacks {', '.join(missing[:3])}" if missing else f"has unknown tensors: {', '.join(extra[:3])}"
        raise _bad(path, f"does not fit its own configuration: it {words}")
    for name, shape in expected.items():
        if header.tensors[name].shape != tuple(shape):
            raise _bad(
                path, f"does not fit its own configuration: '{name}' is {header.tensors[name].shape}, not {shape}"
            )
