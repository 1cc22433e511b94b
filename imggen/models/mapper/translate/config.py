"""The options and presets of translation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from imggen.models.mapper.config import DESCRIPTIONS as SIZE_DESCRIPTIONS
from imggen.models.mapper.config import SIZES, MapperConfig
from imggen.option import option

PAIRED_RATE = 2.5  # the learning rate with pairs, of that without


@dataclass(frozen=True, kw_only=True)
class TranslateConfig(MapperConfig):
    """A U-Net from images to images of `target_channels`, and the losses it learns by.

    With `paired`, each image has a true output, and the loss is L1 with a critic of patches, or L1 alone (`l1_only`);
    with `noise`, too, an image has another result for each noise.
    Without `paired`, a critic compares the outputs with images of the other kind, contrast keeps what the image shows,
    and `turning` keeps it where it is.
    """

    family: ClassVar[str] = "translate"

    paired: bool = option(False, "Each image has its true output: same name in --to")
    l1_only: bool = option(False, "With pairs: learn by L1 alone, without a critic")
    learning_rate: float = option(8e-4, "Initial learning rate of AdamW and Muon", low=1e-8, high=1.0)
    geometry: float = option(0.0, "Strength of shifts, turns and scaling; 0: none", low=0.0, high=4.0)
    color: float = option(0.0, "Strength of changes of inputs' colors; 0: none", low=0.0, high=4.0)
    critic_width: int = option(32, "Channels of the critic's first layer", low=4, high=1024)
    critic_weight: float = option(0.03, "With pairs: weight of the critic beside L1", low=0.0, high=10.0)
    contrast: float = option(1.0, "Without pairs: weight of contrast", low=0.0, high=100.0)
    identity: float = option(1.0, "Without pairs: weight of keeping images of B", low=0.0, high=100.0)
    turning: float = option(1.0, "Without pairs: weight of turned images alike", low=0.0, high=100.0)
    augment: float = option(0.1, "Without pairs: strength of the critic's augmentation", low=0.0, high=1.0)
    noise: int = option(0, "With pairs: numbers of noise, for images with many results", low=0, high=512)
    gamma: float = option(0.1, "Weight of the critic's gradient penalty", low=0.0, high=1000.0)
    # Of the data.
    target_channels: int = 3

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        self.check(self.target_channels in (1, 3, 4), "target_channels must be 1, 3 or 4")
        self.check(self.paired or not self.l1_only, "L1 compares pairs: --l1-only needs --paired")
        self.check(self.paired or not self.noise, "what noise is for is learned from pairs: --noise needs --paired")

    def with_overrides(self, **values: Any) -> Self:
        """The same with other values. Pairs are learned by Muon, at a higher learning rate unless one is given."""
        if values.get("paired") and not self.paired and values.get("learning_rate") is None:
            values["learning_rate"] = PAIRED_RATE * self.learning_rate
        return super().with_overrides(**values)

    @property
    def made_channels(self) -> int:
        """Channels of the results."""
        return self.target_channels

    @property
    def has_critic(self) -> bool:
        """Whether a critic takes part in the training."""
        return not self.paired or (not self.l1_only and self.critic_weight > 0)


PRESETS = {
    name: TranslateConfig(
        **{**values, "critic_width": {"tiny": 32, "base": 64, "large": 96}[name], "learning_rate": rate}
    )
    for (name, values), rate in zip(SIZES.items(), (8e-4, 4e-4, 2e-4), strict=True)
}
DESCRIPTIONS = SIZE_DESCRIPTIONS
