"""Devices and precisions that exist, and batches that are halved when memory runs out."""

import pytest
import torch

from imggen.engine.device import find_device, find_precision, out_of_memory, precision_name, run_in_batches
from imggen.errors import DeviceError, UsageError

CPU = torch.device("cpu")


def sum_of_batches(count: int, size: int, *, largest: int, error: Exception) -> tuple[list[list[int]], list[int]]:
    """Batches of range(count) where memory suffices for `largest` items; returns the batches and the new sizes."""
    sizes: list[int] = []

    def work(part: list[int]) -> list[int]:
        if len(part) > largest:
            raise error
        return part

    return list(run_in_batches(work, range(count), size, CPU, on_smaller=sizes.append, error="too large")), sizes


def test_batches_have_the_size_that_was_asked_for() -> None:
    assert sum_of_batches(7, 3, largest=9, error=MemoryError()) == ([[0, 1, 2], [3, 4, 5], [6]], [])
    assert sum_of_batches(0, 3, largest=9, error=MemoryError()) == ([], [])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_a_batch_too_large_for_memory_is_halved_and_stays_so(error: Exception) -> None:
    assert out_of_memory(error)
    batches, sizes = sum_of_batches(11, 8, largest=2, error=error)
    assert sizes == [4, 2]
    assert batches == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]]
    # The last part may be shorter than the size: its half counts.
    assert sum_of_batches(3, 8, largest=2, error=error) == ([[0], [1], [2]], [1])


def test_one_item_too_large_for_memory_is_an_error() -> None:
    with pytest.raises(DeviceError, match="too large") as caught:
        sum_of_batches(4, 4, largest=0, error=MemoryError())
    assert "--device cpu" in str(caught.value.hint) and isinstance(caught.value.__cause__, MemoryError)


def test_other_errors_are_raised_at_once() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        sum_of_batches(4, 4, largest=0, error=RuntimeError("shapes do not match"))


def test_devices_and_precisions() -> None:
    assert find_device("cpu") == CPU
    for name in ("cuda:97", "gpu", "meta"):
        with pytest.raises(DeviceError):
            find_device(name)
    assert find_precision("auto", CPU, training=True) == torch.float32
    assert precision_name(find_precision("bf16", CPU, training=True)) == "bf16"
    for name in ("fp16", "fp8"):
        with pytest.raises(UsageError) as caught:
            find_precision(name, CPU, training=False)
        assert caught.value.exit_code == 2
