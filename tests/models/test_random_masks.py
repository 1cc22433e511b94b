"""Random masks for training the partial encoder."""

import torch

from imggen.models.random_masks import random_masks


def test_masks_are_of_many_kinds() -> None:
    torch.manual_seed(0)
    masks = random_masks(400, 32, torch.device("cpu"))
    assert masks.shape == (400, 1, 32, 32) and set(masks.unique().tolist()) == {0.0, 1.0}
    fractions = masks.mean((1, 2, 3))
    assert fractions.min() < 0.1 and fractions.max() > 0.8 and 0.25 < fractions.mean() < 0.6
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 300
    torch.manual_seed(0)
    assert torch.equal(masks, random_masks(400, 32, torch.device("cpu")))
