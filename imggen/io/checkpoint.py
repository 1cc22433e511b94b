"""Checkpoints: one safetensors file each, with the tensors, and a JSON document in the metadata. No pickle.

A checkpoint is of one kind: "weights" (a model), "state" (what training needs to resume) or "features" (a feature
extractor). The document holds its configuration. Everything read is checked, because a file may come from anywhere.
"""

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
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
_MAX_HEADER_BYTES = 64 << 20
_MAX_TENSORS = 100_000
_MAX_DIMENSIONS = 16


@dataclass(frozen=True)
class TensorInfo:
    """Dtype (as safetensors names it) and shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """Everything in a checkpoint but the tensors' values; `size` is the file's, in bytes."""

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
    """Write a checkpoint atomically and durably. Raises DataError if it cannot be written.

    All kinds but "state" also carry the ModelSpec 1.0.1 metadata, among it a hash over all tensors and, if given,
    `thumbnail`, the bytes of a PNG.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Copies, because safetensors refuses tensors that share memory or are not contiguous.
    copies = {name: _contiguous_copy(tensor) for name, tensor in sorted(tensors.items())}
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
            "modelspec.hash_sha256": "0x" + _hash(copies),
        }
        if thumbnail is not None:
            metadata["modelspec.thumbnail"] = "data:image/png;base64," + base64.b64encode(thumbnail).decode()
    with atomic_path(path, durable=True) as sibling:
        try:
            save_file(copies, sibling, metadata=metadata)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error
        # safetensors creates files of mode 0600: set the mode that the umask gives any other file.
        mask = os.umask(0)
        os.umask(mask)
        sibling.chmod(0o666 & ~mask)


def _contiguous_copy(tensor: Tensor) -> Tensor:
    """A copy on the CPU."""
    import torch

    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format).contiguous()


def _hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of all tensors, in hexadecimal."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_hash(header: Header) -> str:
    """The first 12 hexadecimal digits of the hash over all tensors; empty for a state."""
    return header.metadata.get("modelspec.hash_sha256", "")[2:14]


def read_header(path: Path, kind: str | None = None) -> Header:
    """Read and check everything but the tensors' values, without torch.

    Raises CheckpointError, with a message of one line, for any defect, and if the kind is not `kind`.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
                # Only now, because the length of a valid header can also begin with a pickle's first byte.
                if prefix[:4] == b"PK\x03\x04" or prefix[:1] == b"\x80":
                    raise _damaged(path, "is a pickle", "imggen reads safetensors only: a pickle can run any code")
                raise _damaged(path, "is not a safetensors file, or was cut short")
            raw = file.read(length)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}", "imggen models lists what there is") from error
    except OSError as error:
        raise _damaged(path, f"cannot be read: {error.strerror}", "check the disk and its permissions") from error
    try:
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=_dict_of_unique_keys)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "has a damaged header") from error
    if not isinstance(table, dict) or len(table) > _MAX_TENSORS:
        raise _damaged(path, "has a damaged header")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "has a damaged header")
    tensors = _tensors(path, table, size - 8 - length)
    document = _document(path, metadata, kind)
    return Header(document["kind"], document, tensors, size, metadata)


def _damaged(path: Path, what: str, hint: str | None = None) -> CheckpointError:
    """The error for a file that cannot be used; `what` completes a sentence that begins with the path."""
    return CheckpointError(f"{path} {what}", hint or "copy it again, or use another checkpoint")


def _dict_of_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict. Raises ValueError for a repeated key, of which readers could choose either."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _is_count(value: Any) -> bool:
    """Whether a JSON value is an integer of a plausible size."""
    return type(value) is int and 0 <= value < 2**48


def _tensors(path: Path, table: dict[str, Any], data_bytes: int) -> dict[str, TensorInfo]:
    """The header's table of tensors, which must fill the file's `data_bytes` without a gap or an overlap."""
    tensors: dict[str, TensorInfo] = {}
    spans = []
    for name, entry in table.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise _damaged(path, f"has a damaged entry '{name[:80]}'")
        dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
        valid = isinstance(dtype, str) and dtype in DTYPE_BYTES
        valid = valid and isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS and all(map(_is_count, shape))
        valid = valid and isinstance(span, list) and len(span) == 2 and all(map(_is_count, span))
        if not valid or span[1] - span[0] != math.prod(shape) * DTYPE_BYTES[dtype]:
            raise _damaged(path, f"has a damaged entry '{name[:80]}'")
        tensors[name] = TensorInfo(dtype, tuple(shape))
        spans.append((span[0], span[1]))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise _damaged(path, "has tensors that overlap or leave gaps")
        position = end
    if position != data_bytes:
        raise _damaged(path, "was cut short, or has bytes that belong to no tensor")
    return tensors


def _document(path: Path, metadata: dict[str, str], kind: str | None) -> dict[str, Any]:
    """imggen's JSON document, of this format and, if given, of this kind."""
    if "imggen" not in metadata:
        raise _damaged(path, "is a safetensors file, but not one of imggen's", "imggen models lists what there is")
    try:
        document = json.loads(metadata["imggen"])
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "has a damaged description") from error
    if not isinstance(document, dict) or document.get("kind") not in KINDS or type(document.get("format")) is not int:
        raise _damaged(path, "has a damaged description")
    if document["format"] != FORMAT:
        raise _damaged(path, f"has format {document['format']}; this imggen reads {FORMAT}", "pip install -U imggen")
    if kind is not None and document["kind"] != kind:
        raise _damaged(
            path,
            f"holds {document['kind']}, not {kind}",
            "weights.safetensors is the model, state.safetensors resumes a training",
        )
    return document


def read_tensors(path: Path, header: Header, expected: Mapping[str, tuple[int, ...]] | None) -> dict[str, Tensor]:
    """Read all tensors, whose names and shapes must be those of `expected`, and whose values must be finite.

    Weights and features are converted to float32, and must match their hash; a state is returned as stored. Raises
    CheckpointError.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if expected is not None:
        _check_names_and_shapes(path, header, expected)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, f"cannot be read: {error}") from error
    if header.kind != "state" and header.metadata.get("modelspec.hash_sha256") != "0x" + _hash(tensors):
        raise _damaged(path, "does not match its own hash: it was damaged or changed")
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            if not torch.isfinite(tensor).all():
                raise _damaged(path, f"holds values that are not finite ('{name}')", "use an earlier checkpoint")
            if header.kind != "state":
                tensors[name] = tensor.float()
    return tensors


def _check_names_and_shapes(path: Path, header: Header, expected: Mapping[str, tuple[int, ...]]) -> None:
    missing = sorted(set(expected) - set(header.tensors))
    extra = sorted(set(header.tensors) - set(expected))
    if missing or extra:
        difference = f"lacks {', '.join(missing[:3])}" if missing else f"has unknown tensors: {', '.join(extra[:3])}"
        raise _damaged(path, f"does not fit its own configuration: it {difference}")
    for name, shape in expected.items():
        if header.tensors[name].shape != tuple(shape):
            raise _damaged(
                path, f"does not fit its own configuration: '{name}' is {header.tensors[name].shape}, not {shape}"
            )
