"""Muon: updates with equal singular values, whatever those of the gradient are."""

import math

import pytest
import torch
from torch import Tensor, nn

from imggen.models import muon
from imggen.models.muon import UPDATE_RMS, Muon, orthogonalize


def stretched(rows: int, columns: int, seed: int) -> Tensor:
    """Singular values from 1 down to a twentieth."""
    generator = torch.Generator().manual_seed(seed)
    left, _, right = torch.linalg.svd(torch.randn(rows, columns, generator=generator), full_matrices=False)
    return left @ torch.diag(torch.linspace(1, 0.05, len(right))) @ right


@pytest.mark.parametrize("shape", [(24, 24), (24, 40), (40, 24), (16, 90), (90, 16)])
def test_singular_values_become_equal(shape: tuple[int, int]) -> None:
    matrix = stretched(*shape, seed=1)
    (result,) = orthogonalize([matrix])
    sizes = torch.linalg.svdvals(result) / (UPDATE_RMS * max(shape) ** 0.5)
    assert sizes.min() > 0.6 and sizes.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    rotated = left.T @ result @ right.T
    assert (rotated - torch.diag(rotated.diagonal())).abs().max() < 1e-4 * rotated.abs().max()


@pytest.mark.parametrize("smallest", [1e-1, 1e-6])
def test_wide_matrices_are_only_computed_in_another_way(smallest: float, monkeypatch: pytest.MonkeyPatch) -> None:
    left, _, right = torch.linalg.svd(
        torch.randn(16, 90, generator=torch.Generator().manual_seed(1)), full_matrices=False
    )
    matrix = left @ torch.diag(torch.logspace(0, math.log10(smallest), 16)) @ right
    (wide,) = orthogonalize([matrix])
    monkeypatch.setattr(muon, "WIDE", math.inf)
    (plain,) = orthogonalize([matrix])
    assert not torch.equal(wide, plain)  # it was another way
    assert (wide - plain).norm() < 1e-3 * plain.norm()


def test_matrices_are_independent_and_stacked_ones_are_split() -> None:
    one, two, three = stretched(16, 16, 1), stretched(16, 16, 2), stretched(10, 16, 3)
    together = orthogonalize([one, three, two])
    for result, alone in zip(together, (one, three, two), strict=True):
        assert torch.allclose(result, orthogonalize([alone])[0], atol=1e-6)
    stacks = orthogonalize([torch.cat([two, one]), torch.cat([one, one])], parts=2)
    assert torch.allclose(stacks[0], torch.cat([together[2], together[0]]), atol=1e-6)
    assert torch.allclose(stacks[1], torch.cat([together[0], together[0]]), atol=1e-6)


def test_a_convolution_is_the_matrix_of_its_outputs() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(6, 4, 3, 3)
    flat, deep = nn.Parameter(torch.zeros(6, 36)), nn.Parameter(torch.zeros(6, 4, 3, 3))
    deep.data = deep.data.to(memory_format=torch.channels_last)
    for weight in (flat, deep):
        weight.grad = gradient.reshape(weight.shape).clone(memory_format=torch.preserve_format)
        Muon([weight], 0.1).step()
    assert torch.equal(flat.data.view(6, 4, 3, 3), deep.data) and deep.abs().max() > 0.01


def test_a_zero_gradient_gives_a_zero_update() -> None:
    (result,) = orthogonalize([torch.zeros(4, 6)])
    assert torch.equal(result, torch.zeros(4, 6))


def test_it_converges_where_curvatures_differ_a_thousandfold() -> None:
    torch.manual_seed(0)
    target, scales = torch.randn(8, 8), torch.logspace(0, -1.5, 8)
    errors = {}
    for name in ("muon", "sgd"):
        weight = nn.Parameter(torch.zeros(8, 8))
        optimizer = Muon([weight], 0.3) if name == "muon" else torch.optim.SGD([weight], 0.5, momentum=0.9)
        for step in range(100):
            optimizer.param_groups[0]["lr"] = (0.3 if name == "muon" else 0.5) * (1 - step / 100)
            torch.autograd.backward((((weight - target) * scales) ** 2).sum() / 2)
            optimizer.step()
            optimizer.zero_grad()
        errors[name] = float((weight.detach() - target).square().mean().sqrt())
    assert errors["muon"] < 0.3 < errors["sgd"]
