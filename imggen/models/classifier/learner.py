"""One step of learning classes: augmented and mixed images, smoothed labels, AdamW, EMA."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from imggen.models import global_batch
from imggen.models.augment import mild_augmentation
from imggen.models.base import Model
from imggen.models.classifier.backbone import Head, Memory
from imggen.models.classifier.config import ClassifierConfig
from imggen.models.classifier.model import ClassifierModel
from imggen.models.learner import Learner
from imggen.models.muon import adam_and_muon
from imggen.models.training import EMA, micro_batches, set_learning_rate, warmed_cosine

WARM_UP = 0.02  # fraction of the training in which the learning rate rises
LAST_RATE = 0.01  # of the initial learning rate
BETAS = (0.9, 0.99)
# A head on a frozen backbone also learns from earlier vectors: so many updates a step, each on so many vectors.
UPDATES, VECTORS = 8, 256
MAX_MEMORY, MAX_MEMORY_NUMBERS = 8192, 1 << 22


class ClassifierLearner(Learner):
    """The classifier with its EMA. The backbone of another model stays as it is, but for `config.tune`."""

    config: ClassifierConfig
    held_out_fraction = 1 / 20

    def __init__(self, config: ClassifierConfig, *parts: Model) -> None:
        super().__init__(config)
        self.model, self.averaged_model = ClassifierModel(config, *parts), ClassifierModel(config, *parts)
        self.frozen = config.backbone is not None and not config.tune
        learning = self.model.head if self.frozen else self.model
        self.average = EMA(learning, config.ema_images)
        size = min(MAX_MEMORY, max(1, MAX_MEMORY_NUMBERS // config.dimensions))
        self.memory = Memory(config.dimensions, size if self.frozen else 1)
        if self.frozen:
            self.model.eval()
            self.model.backbone.requires_grad_(False)
            self.averaged_model.backbone, self.averaged_model.head = self.model.backbone, self._averaged_head
        else:
            self.averaged_model.load_state_dict(self.model.state_dict())
        self.adam = adam_and_muon(learning, {}, config.learning_rate, betas=BETAS, weight_decay=config.weight_decay)

    @property
    def _averaged_head(self) -> Head:
        head = self.average.network
        assert isinstance(head, Head)
        return head

    @property
    def saved_model(self) -> ClassifierModel:
        """The EMA of the classifier, with its backbone."""
        if self.frozen:
            return self.averaged_model
        average = self.average.network
        assert isinstance(average, ClassifierModel)
        return average

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Keys: model, average (its EMA); on a frozen backbone: backbone, head, average (of the head) and memory."""
        if not self.frozen:
            return {"model": self.model, "average": self.average.network}
        own = {"backbone": self.model.backbone, "head": self.model.head}
        return {**own, "average": self.average.network, "memory": self.memory}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Key: adam (AdamW)."""
        return self.adam

    def begin_from(self, weights: dict[str, Tensor]) -> None:
        """Begin with these weights."""
        self.model.load_state_dict(weights)
        self.average.network.load_state_dict((self.model.head if self.frozen else self.model).state_dict())

    def step(self, images: Tensor, labels: Tensor | None, progress: float, images_seen: int) -> dict[str, Tensor]:
        """Learn from augmented copies of the images."""
        assert labels is not None
        config = self.config
        rate = config.learning_rate * warmed_cosine(progress, LAST_RATE, WARM_UP)
        set_learning_rate(self.adam.values(), rate)
        augment = mild_augmentation(images.shape, config.geometry, config.color, config.cutout, images.device)
        images = augment(images)
        metrics = self._update_head(images, labels) if self.frozen else self._update_all(images, labels)
        batch = len(images) * global_batch.num_parts()
        self.average.update(self.model.head if self.frozen else self.model, batch, images_seen)
        return metrics

    def _update_all(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One update, on images of which pairs are mixed, with their labels (mixup, arXiv 1710.09412)."""
        config = self.config
        self.model.train()
        targets = one_hot(labels, len(config.classes)).float()
        if config.mixup:
            weight = float(torch.distributions.Beta(config.mixup, config.mixup).sample())
            partners = global_batch.permuted((images, targets))
            images, targets = (
                torch.lerp(other, own, weight) for other, own in zip(partners, (images, targets), strict=True)
            )
        loss, correct = images.new_zeros(()), images.new_zeros(())
        parts = micro_batches(images, self.micro_batch), micro_batches(targets, self.micro_batch)
        for part, wanted in zip(*parts, strict=True):
            with self.autocast(images.device):
                logits = self.model(part.contiguous(memory_format=torch.channels_last)).float()
            fraction = len(part) / len(images)
            part_loss = cross_entropy(logits, wanted, label_smoothing=config.smoothing) * fraction
            torch.autograd.backward(part_loss)
            loss += part_loss.detach()
            correct += (logits.argmax(1) == wanted.argmax(1)).float().mean() * fraction
        self.apply_gradients(list(self.adam.values()), loss)
        return {"loss": loss, "train_accuracy": correct}

    def _update_head(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Extract and keep the vectors of the images, and update the head on random kept ones."""
        with torch.no_grad(), self.autocast(images.device):
            parts = micro_batches(images, self.micro_batch)
            vectors = torch.cat([self.model.features(part).vectors.float() for part in parts])
        # Before it is remembered: what is not finite would stay there.
        self._learn(vectors, labels)
        self.memory.add(global_batch.gather(vectors), global_batch.gather(labels))
        losses, hits = zip(*(self._learn(*self.memory.sample(VECTORS)) for _ in range(UPDATES - 1)), strict=True)
        return {"loss": torch.stack(losses).mean(), "train_accuracy": torch.stack(hits).mean()}

    def _learn(self, vectors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One update of the head on vectors (B, D) with labels (B,); returns the loss, and the fraction it got right.

        Raises NonFiniteError.
        """
        logits = self.model.head(vectors)
        loss = cross_entropy(logits, labels, label_smoothing=self.config.smoothing)
        torch.autograd.backward(loss)
        loss = loss.detach()
        self.apply_gradients(list(self.adam.values()), loss)
        return loss, (logits.argmax(1) == labels).float().mean()
