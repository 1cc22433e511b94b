"""The batch of a training step, of which several processes may each hold an equal part: their random numbers and sums.

Every process seeds torch's generator alike and samples the random numbers of the whole batch, of which it uses its own
rows. Statistics of a batch are taken over all processes. So a step of several processes is that of one process with
the whole batch, up to rounding. Outside of `part_of_batch`, and with a single process, everything is torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional

from imggen.errors import ProcessEndedError

_rank, _size = 0, 1  # which part of how many this process has


@contextmanager
def part_of_batch(rank: int, size: int) -> Iterator[None]:
    """In this block batches are part number `rank` of the `size` parts of a batch, one for each process."""
    global _rank, _size
    before, (_rank, _size) = (_rank, _size), (rank, size)
    try:
        yield
    finally:
        _rank, _size = before


def num_parts() -> int:
    """The number of processes that share a batch; 1 outside of `part_of_batch`."""
    return _size


# Random numbers, from torch's global generator


def rand(count: int, *shape: int, device: torch.device | None = None) -> Tensor:
    """torch.rand for `count` rows of the batch: (count, *shape)."""
    return _own_rows(lambda rows: torch.rand(rows, *shape, device=device), count)


def randn(count: int, *shape: int, device: torch.device | None = None) -> Tensor:
    """torch.randn for `count` rows of the batch: (count, *shape)."""
    return _own_rows(lambda rows: torch.randn(rows, *shape, device=device), count)


def randint(high: int, count: int) -> Tensor:
    """torch.randint in [0, high) for `count` rows of the batch: (count,), int64."""
    return _own_rows(lambda rows: torch.randint(high, (rows,)), count)


def multinomial(probabilities: Tensor, count: int) -> Tensor:
    """torch.multinomial with replacement for `count` rows of the batch: (count,), int64."""
    return _own_rows(lambda rows: torch.multinomial(probabilities, rows, replacement=True), count)


def rand_like(rows: Tensor) -> Tensor:
    """torch.rand_like for rows of the batch (B, …)."""
    return torch.rand_like(rows) if _size == 1 else _like(rows, lambda whole: whole.uniform_())


def randn_like(rows: Tensor) -> Tensor:
    """torch.randn_like for rows of the batch (B, …)."""
    return torch.randn_like(rows) if _size == 1 else _like(rows, lambda whole: whole.normal_())


def dropout(rows: Tensor, rate: float, training: bool) -> Tensor:
    """torch's dropout of rows of the batch (B, …), with the probability `rate` where `training`."""
    if _size == 1 or not training or not rate:
        return functional.dropout(rows, rate, training)
    return rows * _like(rows, lambda whole: whole.bernoulli_(1 - rate)).div_(1 - rate)


def _own_rows(sample: Callable[[int], Tensor], count: int) -> Tensor:
    """This process's `count` rows of what `sample` gives for the rows of all processes."""
    return sample(count) if _size == 1 else sample(_size * count)[_rank * count :][:count]


def _like(rows: Tensor, fill: Callable[[Tensor], Tensor]) -> Tensor:
    """This process's rows of a batch like `rows` that `fill` fills: in the same memory layout, whose order it takes."""
    strides = torch.empty_like(rows.detach()).stride()

    def sample(count: int) -> Tensor:
        shape = (count, *rows.shape[1:])
        return fill(torch.empty_strided(shape, (rows[0].numel(), *strides[1:]), dtype=rows.dtype, device=rows.device))

    return _own_rows(sample, len(rows))


# Sums over the processes


def all_reduce(tensor: Tensor, operation: Any = distributed.ReduceOp.SUM) -> Tensor:
    """Replace a tensor by its sum over all processes. Raises ProcessEndedError if one of them has ended."""
    try:
        distributed.all_reduce(tensor, operation)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ProcessEndedError from error
    return tensor


class _Mean(torch.autograd.Function):
    """The mean over the processes; its own adjoint, so it has derivatives of every order."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return all_reduce(tensor.detach().clone(memory_format=torch.contiguous_format)) / _size

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Mean.apply(gradients[0])


def mean_over_parts(statistic: Tensor) -> Tensor:
    """The mean of a batch's statistic over the processes, with its gradient."""
    return statistic if _size == 1 else _Mean.apply(statistic)


def sum_over_parts(count: Tensor) -> Tensor:
    """The sum of a batch's counts over the processes, without a gradient."""
    return count if _size == 1 else all_reduce(count.clone())


@torch.no_grad()
def gather(rows: Tensor) -> Tensor:
    """The rows (B, …) of this process and those of all others, in the order of the batch; without a gradient."""
    if _size == 1:
        return rows
    whole = rows.new_zeros(_size, *rows.shape)
    whole[_rank] = rows
    return all_reduce(whole).flatten(0, 1)


def permuted(rows: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of rows (B, …) of the batch, with the rows of all processes in one random order; without a gradient."""
    order = torch.randperm(_size * len(rows[0]))[_rank * len(rows[0]) :][: len(rows[0])]
    return [gather(each)[order.to(each.device)] for each in rows]


def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors of one device by their means over the processes, in one all-reduce."""
    if _size == 1 or not tensors:
        return
    dense = [_in_memory_order(tensor.detach()) for tensor in tensors]
    flat = torch.cat([tensor.reshape(-1).to(dense[0].dtype) for tensor in dense])
    all_reduce(flat).div_(_size)
    means = torch.split(flat, [tensor.numel() for tensor in dense])
    for tensor, mean in zip(dense, means, strict=True):
        tensor.copy_(mean.view(tensor.shape))


def _in_memory_order(tensor: Tensor) -> Tensor:
    """A view of a tensor in channels_last layout that can be flattened without moving its elements."""
    is_permuted = tensor.ndim == 4 and not tensor.is_contiguous()
    return tensor.permute(0, 2, 3, 1) if is_permuted else tensor
