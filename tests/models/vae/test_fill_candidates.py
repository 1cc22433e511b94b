"""Fills to choose from, and the luck that chooses."""

import torch

from imggen.models.vae.fill_candidates import LEAST, MOST, gumbel_noise, num_candidates, unique_rows


def test_the_choice_among_fills_is_not_made_by_a_latent() -> None:
    noise = torch.randn(20_000, 200, generator=torch.Generator().manual_seed(0))
    chances = gumbel_noise(noise, 8)
    assert chances.shape == (20_000, 8) and torch.corrcoef(chances.T).fill_diagonal_(0).abs().max() < 0.05
    assert abs(float(chances.mean()) - 0.5772) < 0.02  # Gumbel's mean
    chosen = chances.argmax(1) == 0
    assert abs(float(chosen.float().mean()) - 1 / 8) < 0.02
    assert float(noise[chosen].mean(0).abs().max()) < 0.45 and abs(float(noise[:, 0].mean())) < 0.05


def test_luck_of_less_noise_than_there_are_classes() -> None:
    chances = gumbel_noise(torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)), 10)
    assert torch.isfinite(chances).all() and len(chances.argmax(1).unique()) > 3
    assert abs(float(chances.mean()) - 0.5772) < 0.1


def test_small_models_choose_among_many_fills() -> None:
    cpu = torch.device("cpu")
    assert num_candidates(1_800_000, 32, cpu, 2600) == MOST
    assert LEAST < num_candidates(1_800_000, 64, cpu, 10_000) < MOST
    assert num_candidates(39_000_000, 256, cpu, 100_000) == LEAST
    assert num_candidates(39_000_000, 256, torch.device("cuda"), 100_000) == MOST
    # Trying a hundred classes takes its share of the time.
    assert num_candidates(1_800_000, 32, cpu, 2600, 100) == LEAST == num_candidates(13_500_000, 32, cpu, 20_000, 10)
    assert num_candidates(100_000, 16, cpu, 32) == 8  # luck is made of four numbers at least


def test_rows_that_are_alike_are_looked_at_once() -> None:
    rows = torch.tensor([[3.0, 1.0], [2.0, 2.0], [3.0, 1.0], [0.0, 5.0], [2.0, 2.0]])
    first, like = unique_rows(rows)
    assert sorted(first.tolist()) == [0, 1, 3]
    assert torch.equal(rows[first][like], rows)
