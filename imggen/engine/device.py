"""Where the numbers are worked out: device, precision, batch size, running out of memory."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import torch

from imggen.errors import DeviceError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h

# What Windows, Linux and Apple's GPUs say; only CUDA has an exception of its own.
_MEMORY_TEXTS = ("not enough memory", "can't allocate memory", "out of memory")


def find_device(name: str, local_rank: int = 0) -> torch.device:
    """ "auto" is the best there is; "cpu", "cuda", "cuda:1", "mps" must be there. Raises DeviceError."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"there is no device called '{name}'", "devices: auto, cpu, cuda, cuda:1, mps") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.index is None:
            device = torch.device("cuda", local_rank)
        if (device.index or 0) >= count:
            raise DeviceError(
                f"device '{name}' is not here: this machine has {count} CUDA devices",
                "--device auto takes what there is",
            )
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' is not here", "--device auto takes what there is")
    elif device.type not in ("cpu", "mps"):
        raise DeviceError(f"imggen does not know devices of kind '{device.type}'", "devices: auto, cpu, cuda, mps")
    return device


def find_precision(name: str, device: torch.device, *, training: bool) -> torch.dtype:
    """ "auto" trains in bf16 on a GPU that has it and uses fp32 elsewhere. Raises DeviceError."""
    if name == "auto":
        fast = training and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    if name not in PRECISIONS:
        raise DeviceError(f"there is no precision called '{name}'", "precisions: auto, fp32, bf16, fp16", 2)
    if name == "fp16" and (training or device.type == "cpu"):
        raise DeviceError("fp16 is for drawing on a GPU", "--precision bf16, or auto", 2)
    return PRECISIONS[name]


def precision_name(dtype: torch.dtype) -> str:
    """The name that `find_precision` takes."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)


def configure_device(device: torch.device, *, full_precision: bool = False) -> None:
    """Set the process up for speed on `device`; with `full_precision` without TF32."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = not full_precision
        torch.set_float32_matmul_precision("highest" if full_precision else "high")
    elif device.type == "cpu":
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Ask glibc to keep what a layer frees for the next one.

    By default it gives large blocks back to the kernel, which then clears every page again: up to a third of the
    time of a small network. Other C libraries have no `mallopt`, and are left alone.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 1 << 30), (_M_TOP_PAD, 64 << 20)):
            mallopt(parameter, value)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's (or the machine's) memory is too small."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MEMORY_TEXTS)


def release_memory(device: torch.device) -> None:
    """Give cached blocks back before trying again with less."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
