"""One step of learning the classes of pixels: cross-entropy and Dice on augmented pairs, Muon, EMA."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from imggen.models import global_batch
from imggen.models.learner import Learner
from imggen.models.mapper.pairs import augment_pairs, classes_in, split_pairs
from imggen.models.mapper.segment.config import SegmentConfig
from imggen.models.mapper.segment.model import SegmentModel
from imggen.models.muon import adam_and_muon
from imggen.models.training import EMA, set_learning_rate, warmed_cosine

VOID = 255  # in masks: a pixel that teaches nothing
WARM_UP = 0.02  # fraction of the training in which the learning rate rises
LAST_RATE = 0.01  # of the initial learning rate
BETAS = (0.9, 0.99)
SMOOTHING = 1.0  # pixels: a class of which there are none is no division by zero


class SegmentLearner(Learner):
    """The segmentation model with its EMA. The images of a step are pairs: their last channel is the mask."""

    config: SegmentConfig
    held_out_fraction = 1 / 20

    def __init__(self, config: SegmentConfig) -> None:
        super().__init__(config)
        self.model = SegmentModel(config)
        self.average = EMA(self.model, config.ema_images)
        hidden, decay = {1: self.model.network.hidden_weights()}, config.weight_decay
        self.optimizers_by_name = adam_and_muon(
            self.model, hidden, config.learning_rate, betas=BETAS, weight_decay=decay
        )

    @property
    def saved_model(self) -> SegmentModel:
        """The EMA of the model."""
        average = self.average.network
        assert isinstance(average, SegmentModel)
        return average

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Keys: model, average (its EMA)."""
        return {"model": self.model, "average": self.average.network}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Keys: adam (AdamW), and muon for the weights between hidden layers."""
        return self.optimizers_by_name

    def begin_from(self, weights: dict[str, Tensor]) -> None:
        """Begin with these weights."""
        self.model.load_state_dict(weights)
        self.average.network.load_state_dict(weights)

    def step(self, images: Tensor, labels: Tensor | None, progress: float, images_seen: int) -> dict[str, Tensor]:
        """Learn from augmented copies of the pairs (B, C + 1, H, W)."""
        config = self.config
        rate = config.learning_rate * warmed_cosine(progress, LAST_RATE, WARM_UP)
        set_learning_rate(self.optimizers.values(), rate)
        pairs = augment_pairs(*split_pairs(images, config.channels), config.geometry, config.color, "nearest")
        batch = torch.cat(pairs, 1)
        metrics = dict.fromkeys(("loss", "entropy", "dice"), images.new_zeros(()))
        for fraction, part, _ in self.micro_batches(batch, None):
            pixels, masks = split_pairs(part, config.channels)
            with self.autocast(images.device):
                scores = self.model(pixels.contiguous(memory_format=torch.channels_last))
            entropy, dice = losses(scores.float(), classes_in(masks))
            loss = (entropy + config.dice * dice) * fraction
            torch.autograd.backward(loss)
            values = {"loss": loss, "entropy": entropy * fraction, "dice": dice * fraction}
            metrics = {name: metrics[name] + value.detach() for name, value in values.items()}
        self.apply_gradients(list(self.optimizers.values()), metrics["loss"])
        self.average.update(self.model, len(images) * global_batch.num_parts(), images_seen)
        return metrics


def losses(scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats, and Dice loss from 0 to 1, of scores (B, K, H, W) for class numbers (B, H, W).

    Dice (Milletari et al. 2016, arXiv 1606.04797) is one minus twice the overlap over the sum of both, of each class
    over the whole batch, averaged over the classes that occur: small classes count as much as large ones. VOID pixels
    count for neither. With several processes the batch is that of all of them; the mean of their losses is its loss.
    """
    known = classes != VOID
    count = global_batch.mean_over_parts(known.sum().to(scores.dtype)).clamp(min=1 / global_batch.num_parts())
    entropy = cross_entropy(scores, classes, ignore_index=VOID, reduction="sum") / count
    truth = one_hot(torch.where(known, classes, 0), scores.shape[1]).permute(0, 3, 1, 2) * known[:, None]
    found = scores.softmax(1) * known[:, None]
    sums = torch.stack([each.sum((0, 2, 3)) for each in (found * truth, found + truth, truth.to(scores.dtype))])
    overlap, total, true = global_batch.mean_over_parts(sums) * global_batch.num_parts()
    occurs = (true > 0).to(scores.dtype)
    dice = 1 - (2 * overlap + SMOOTHING) / (total + SMOOTHING)
    return entropy, (dice * occurs).sum() / occurs.sum().clamp(min=1)
