"""Device, precision, and what happens when memory runs out."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

import torch

from imggen.errors import DeviceError, UsageError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h

# Texts of the RuntimeErrors of Windows, Linux and MPS; only CUDA has its own exception class.
_MEMORY_TEXTS = ("not enough memory", "can't allocate memory", "out of memory")

Item = TypeVar("Item")
Result = TypeVar("Result")


def find_device(name: str, local_rank: int = 0) -> torch.device:
    """The device called `name`: "cpu", "cuda", "cuda:1" or "mps"; "auto" is a GPU if there is one, else the CPU.

    Without an index, CUDA's device is number `local_rank`. Raises DeviceError if this machine has no such device.
    """
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
                f"device '{name}' is not available: this machine has {count} CUDA devices",
                "--device auto uses the best device of this machine",
            )
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' is not available", "--device auto uses the best device of this machine")
    elif device.type not in ("cpu", "mps"):
        raise DeviceError(f"imggen does not support devices of type '{device.type}'", "devices: auto, cpu, cuda, mps")
    return device


def find_precision(name: str, device: torch.device, *, training: bool) -> torch.dtype:
    """The dtype called `name`; "auto" is bf16 for training on a GPU that supports it, and fp32 otherwise.

    Raises DeviceError.
    """
    if name == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if training and has_bf16 else torch.float32
    if name not in PRECISIONS:
        raise UsageError(f"there is no precision called '{name}'", "precisions: auto, fp32, bf16, fp16")
    if name == "fp16" and (training or device.type == "cpu"):
        raise UsageError("fp16 works only for sampling on a GPU", "use --precision bf16 or auto")
    return PRECISIONS[name]


def precision_name(dtype: torch.dtype) -> str:
    """The name that `find_precision` takes."""
    return next(name for name, precision in PRECISIONS.items() if precision == dtype)


def configure_device(device: torch.device, *, full_precision: bool = False) -> None:
    """Set this process's global options for speed on `device`; `full_precision` disables TF32."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = not full_precision
        torch.set_float32_matmul_precision("highest" if full_precision else "high")
    elif device.type == "cpu":
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Ask glibc to keep freed memory for the next layer.

    By default glibc returns large blocks to the kernel, which then zeroes every page again: up to a third of the time
    of a small network. Other C libraries have no `mallopt`; nothing changes there.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 1 << 30), (_M_TOP_PAD, 64 << 20)):
            mallopt(parameter, value)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the device or of the machine is too small."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MEMORY_TEXTS)


def release_memory(device: torch.device) -> None:
    """Return the allocator's cached blocks to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def retry_out_of_memory(
    work: Callable[[], Result], reduce_memory: Callable[[BaseException], None], device: torch.device
) -> Result:
    """Call `work` until it succeeds; each time that memory runs out, call `reduce_memory` with the error first.

    `reduce_memory` makes the next call of `work` need less memory, or raises if nothing can be reduced any further.
    """
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            reduce_memory(error)
        release_memory(device)  # outside of `except`: the error's traceback holds the tensors of the failed call


def run_in_batches(
    work: Callable[[list[Item]], Result],
    items: Sequence[Item],
    size: int,
    device: torch.device,
    *,
    on_smaller: Callable[[int], None],
    error: str,
) -> Iterator[Result]:
    """Yield `work(part)` for consecutive parts of at most `size` items; when memory runs out, halve the size.

    The size stays halved for the rest of the items, and `on_smaller` is called with it. Raises DeviceError with the
    message `error` if memory does not suffice for a single item.
    """
    start = 0

    def run_next_part() -> Result:
        return work(list(items[start : start + size]))

    def halve_size(cause: BaseException) -> None:
        nonlocal size
        count = len(items[start : start + size])
        if count == 1:
            raise DeviceError(error, "use --device cpu, or a smaller model") from cause
        size = count // 2
        on_smaller(size)

    while start < len(items):
        result = retry_out_of_memory(run_next_part, halve_size, device)
        start += size
        yield result
