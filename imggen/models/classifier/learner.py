"""One step of learning classes: augmented and mixed images, smoothed labels, AdamW, EMA."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from imggen.models import global_batch
from imggen.models.augment import mild_augmentation
from imggen.models.classifier.config import ClassifierConfig
from imggen.models.classifier.model import ClassifierModel
from imggen.models.learner import Learner
from imggen.models.muon import adam_and_muon
from imggen.models.training import EMA, cosine_decay, micro_batches, set_learning_rate

WARM_UP = 0.02  # fraction of the training in which the learning rate rises


class ClassifierLearner(Learner):
    """The classifier with its EMA."""

    config: ClassifierConfig
    held_out_fraction = 1 / 20

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)
        self.model = ClassifierModel(config)
        self.average = EMA(self.model, config.ema_images)
        betas = (0.9, 0.99)
        self.adam = adam_and_muon(self.model, {}, config.learning_rate, betas=betas, weight_decay=config.weight_decay)

    @property
    def saved_model(self) -> ClassifierModel:
        """The EMA of the classifier."""
        average = self.average.network
        assert isinstance(average, ClassifierModel)
        return average

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Keys: model, average (its EMA)."""
        return {"model": self.model, "average": self.average.network}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Key: adam (AdamW)."""
        return self.adam

    def begin_from(self, weights: dict[str, Tensor]) -> None:
        """Begin with these weights."""
        self.model.load_state_dict(weights)
        self.average.network.load_state_dict(weights)

    def step(self, images: Tensor, labels: Tensor | None, progress: float, images_seen: int) -> dict[str, Tensor]:
        """Update the classifier on augmented copies of the images, of which pairs are mixed (arXiv 1710.09412)."""
        assert labels is not None
        config = self.config
        rate = config.learning_rate * cosine_decay(progress, 0.01) * min(1.0, (progress + 1e-3) / WARM_UP)
        set_learning_rate(self.adam.values(), rate)
        self.model.train()

        # Augment, and mix each image and its label with another one of the batch
        augment = mild_augmentation(images.shape, config.geometry, config.color, config.cutout, images.device)
        images = augment(images)
        targets = one_hot(labels, len(config.classes)).float()
        if config.mixup:
            weight = float(torch.distributions.Beta(config.mixup, config.mixup).sample())
            partners = torch.randperm(len(images)).to(images.device)
            images = torch.lerp(images[partners], images, weight)
            targets = torch.lerp(targets[partners], targets, weight)

        # Update
        loss, correct = images.new_zeros(()), images.new_zeros(())
        for part, wanted in zip(
            micro_batches(images, self.micro_batch), micro_batches(targets, self.micro_batch), strict=True
        ):
            with self.autocast(images.device):
                logits = self.model(part.contiguous(memory_format=torch.channels_last)).float()
            fraction = len(part) / len(images)
            part_loss = cross_entropy(logits, wanted, label_smoothing=config.smoothing) * fraction
            torch.autograd.backward(part_loss)
            loss += part_loss.detach()
            correct += (logits.argmax(1) == wanted.argmax(1)).float().mean() * fraction
        self.apply_gradients(list(self.adam.values()), loss)
        self.average.update(self.model, len(images) * global_batch.num_parts(), images_seen)
        return {"loss": loss, "train_accuracy": correct}
