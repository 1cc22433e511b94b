"""The gradient guard skips unusual steps, and never all of them."""

import pytest
import torch

from imggen.models.vae.gradient_guard import (
    MAX_CONSECUTIVE_SKIPS,
    MIN_NORMS_BEFORE_SKIPPING,
    NORMS_KEPT,
    GradientGuard,
)


def test_it_skips_unusual_norms() -> None:
    guard = GradientGuard(3.0)
    assert all(guard.gradient_scale(1.0 + 0.1 * (index % 3)) == 1.0 for index in range(50))
    assert guard.gradient_scale(100.0) == 0.0
    assert guard.gradient_scale(1.1) == 1.0
    assert GradientGuard(0.0).gradient_scale(1e9) == 1.0


@pytest.mark.parametrize("growth", [1.0, 1.5, 10.0])
def test_it_never_skips_for_ever(growth: float) -> None:
    """Norms that are larger from some step on, or keep growing: steps go on."""
    guard = GradientGuard(3.0)
    for _ in range(60):
        guard.gradient_scale(1.0)
    norm, taken, longest, consecutive = 1000.0, 0, 0, 0
    for _ in range(200):
        scale = guard.gradient_scale(norm)
        consecutive = 0 if scale else consecutive + 1
        longest, taken = max(longest, consecutive), taken + (scale > 0)
        norm = min(norm * growth, 1e200)
    assert longest <= MAX_CONSECUTIVE_SKIPS and taken >= 200 // (MAX_CONSECUTIVE_SKIPS + 1)
    if growth == 1.0:
        assert taken > 150


def test_its_state_survives_a_checkpoint() -> None:
    guard, other = GradientGuard(3.0), GradientGuard(3.0)
    generator = torch.Generator().manual_seed(0)
    norms = (torch.randn(NORMS_KEPT + MIN_NORMS_BEFORE_SKIPPING, generator=generator) * 2).exp().tolist()
    for norm in norms:
        guard.gradient_scale(norm)
    other.load_state(guard.state())
    assert [guard.gradient_scale(norm) for norm in norms] == [other.gradient_scale(norm) for norm in norms]


def test_it_takes_steps_after_vanished_gradients() -> None:
    guard = GradientGuard(3.0)
    for _ in range(40):
        guard.gradient_scale(0.0)
    assert guard.gradient_scale(1.0) == 1.0
