"""Number of candidate fills, and the Gumbel noise that chooses among them."""

import torch

from imggen.models.vae.fill_candidates import (
    MAX_CANDIDATES,
    MIN_CANDIDATES_ON_CPU,
    Candidate,
    gumbel_noise,
    num_candidates,
    resample,
    unique_rows,
)


def test_choice_does_not_depend_on_a_single_latent() -> None:
    noise = torch.randn(20_000, 200, generator=torch.Generator().manual_seed(0))
    gumbel = gumbel_noise(noise, 8)
    assert gumbel.shape == (20_000, 8) and torch.corrcoef(gumbel.T).fill_diagonal_(0).abs().max() < 0.05
    assert abs(float(gumbel.mean()) - 0.5772) < 0.02  # the mean of a Gumbel variable
    chosen = gumbel.argmax(1) == 0
    assert abs(float(chosen.float().mean()) - 1 / 8) < 0.02
    assert float(noise[chosen].mean(0).abs().max()) < 0.45 and abs(float(noise[:, 0].mean())) < 0.05


def test_gumbel_noise_for_more_classes_than_latents() -> None:
    gumbel = gumbel_noise(torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)), 10)
    assert torch.isfinite(gumbel).all() and len(gumbel.argmax(1).unique()) > 3
    assert abs(float(gumbel.mean()) - 0.5772) < 0.1


def test_resampling_is_proportional_to_the_weights() -> None:
    noise = torch.randn(20_000, 200, generator=torch.Generator().manual_seed(0))
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    candidates = [
        Candidate(torch.full((20_000, 1, 1, 1), float(index)), p.log().expand(20_000))
        for index, p in enumerate(probabilities)
    ]
    chosen = resample(candidates, gumbel_noise(noise, 3), torch.full((20_000, 1, 1, 1), -1.0))
    frequencies = torch.stack([(chosen == index).float().mean() for index in range(3)])
    torch.testing.assert_close(frequencies, probabilities, atol=0.02, rtol=0)


def test_resampling_never_chooses_nan() -> None:
    default, fill = torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1)
    overflowed = Candidate(fill * torch.nan, torch.full((2,), torch.nan))
    good = Candidate(fill, torch.full((2,), -1e30))
    assert torch.equal(resample([overflowed, good], torch.zeros(2, 2), default), fill)
    assert torch.equal(resample([good, overflowed], torch.zeros(2, 2), default), fill)
    assert torch.equal(resample([overflowed], torch.zeros(2, 1), default), default)


def test_number_of_candidates() -> None:
    cpu = torch.device("cpu")
    assert num_candidates(1_800_000, 32, cpu, 2600) == MAX_CANDIDATES
    assert MIN_CANDIDATES_ON_CPU < num_candidates(1_800_000, 64, cpu, 10_000) < MAX_CANDIDATES
    assert num_candidates(39_000_000, 256, cpu, 100_000) == MIN_CANDIDATES_ON_CPU
    assert num_candidates(39_000_000, 256, torch.device("cuda"), 100_000) == MAX_CANDIDATES
    # Scoring a hundred classes takes its part of the time.
    assert num_candidates(1_800_000, 32, cpu, 2600, 100) == MIN_CANDIDATES_ON_CPU
    assert num_candidates(13_500_000, 32, cpu, 20_000, 10) == MIN_CANDIDATES_ON_CPU
    assert num_candidates(100_000, 16, cpu, 32) == 8  # a Gumbel variable is made of at least four elements


def test_unique_rows() -> None:
    rows = torch.tensor([[3.0, 1.0], [2.0, 2.0], [3.0, 1.0], [0.0, 5.0], [2.0, 2.0]])
    first, inverse = unique_rows(rows)
    assert sorted(first.tolist()) == [0, 1, 3]
    assert torch.equal(rows[first][inverse], rows)
