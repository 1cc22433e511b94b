"""The options and presets of segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from imggen.documents import TEXT, DocumentError, Kind, read_fields
from imggen.errors import UsageError
from imggen.models.mapper.config import DESCRIPTIONS as SIZE_DESCRIPTIONS
from imggen.models.mapper.config import SIZES, MapperConfig
from imggen.models.pretrained import PRETRAINED
from imggen.option import option

MAX_CLASSES = 200
OWN = "own"
SEEN_SIDE = 128  # pixels: smaller images are magnified for a pretrained backbone
FEW_MASKS = 200


def _are_names(value: Any) -> bool:
    return type(value) is list and 2 <= len(value) <= MAX_CLASSES and all(map(TEXT.accepts, value))


@dataclass(frozen=True, kw_only=True)
class SegmentConfig(MapperConfig):
    """A U-Net with a score for each class of pixels; `table` says what the values of the masks mean.

    With pretrained features it has a backbone, EfficientNet-Lite0, whose weights its checkpoint has, too.
    """

    family: ClassVar[str] = "segment"
    objects: ClassVar[tuple[str, ...]] = ("table",)

    features: str = option("own", "Backbone: own (none) or pretrained, for few masks", metavar="NAME")
    dice: float = option(1.0, "Weight of the Dice loss", low=0.0, high=100.0)
    # Of the masks: as `MaskTable.to_json` of the data makes it.
    table: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check the values, and the names of the classes."""
        super().__post_init__()
        self.check(
            self.features in (OWN, PRETRAINED),
            f"features of a segmentation must be {OWN} or {PRETRAINED}: other models see images of one size alone",
        )
        if self.table is not None:
            try:
                read_fields({"names": self.table.get("names")}, {"names": Kind("2 to 200 names", _are_names)})
            except DocumentError as error:
                raise UsageError(f"its table of classes cannot be used: it {error}") from error

    def advice(self, count: int) -> str:
        """What finds more with few masks: emoji on photographs an IoU of .85 in place of .59 with 64 of them."""
        if count >= FEW_MASKS or self.features == PRETRAINED:
            return ""
        options = f"--features {PRETRAINED} --mirror --geometry 1.5 --color 2"
        return f"{count} masks are few: of photographs, {options} finds more"

    @property
    def magnify(self) -> int:
        """How many times larger than they are a pretrained backbone sees images: at most four times."""
        return 1 if self.size >= SEEN_SIDE else 2 if 2 * self.size >= SEEN_SIDE else 4

    @property
    def pixel_classes(self) -> tuple[str, ...]:
        """The names of the classes of pixels."""
        return ("background", "object") if self.table is None else tuple(self.table["names"])


PRESETS = {name: SegmentConfig(**values) for name, values in SIZES.items()}
DESCRIPTIONS = SIZE_DESCRIPTIONS
