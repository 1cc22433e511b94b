"""Tensors as the bytes of a safetensors file, and back, with a hash over them.

The library is given bytes, not paths: it could not open a path that is not Unicode, would write to a temporary file of
its own naming, which a killed process leaves behind, and would read through a memory map, where a file that shrinks
meanwhile ends the process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

DTYPE_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.uint16: "U16",
    torch.float16: "F16", torch.bfloat16: "BF16", torch.int32: "I32", torch.uint32: "U32", torch.float32: "F32",
    torch.int64: "I64", torch.uint64: "U64", torch.float64: "F64",
}  # fmt: skip

_BLOCK = 1 << 18  # values looked at together, which fit into a CPU's cache


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as contiguous ones on the CPU; no two share memory, which safetensors refuses."""
    copies = {}
    for name, tensor in sorted(tensors.items()):
        copies[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format).contiguous()
    return copies


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of contiguous tensors on the CPU, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode("utf-8", "surrogatepass"))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def all_finite(tensor: Tensor) -> bool:
    """Whether all values of a floating-point tensor are finite."""
    for part in torch.split(tensor.flatten(), _BLOCK):
        # A sum is much faster, and finite only if all values are; a sum of large ones may overflow.
        if not torch.isfinite(part.float().sum()) and not torch.isfinite(part).all():
            return False
    return True


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file with tensors that `on_cpu` has returned."""
    return save(dict(tensors), metadata=dict(metadata))


def read_tensor_file(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU. Raises OSError, and ValueError if it is no safetensors file."""
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(str(error)) from error
