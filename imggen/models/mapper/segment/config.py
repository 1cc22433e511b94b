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
SEEN_SIDE = 128
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
        """What finds more with few masks, as measured with emoji on photographs: IoU .59 to .85 with 64 of them."""
        if count >= FEW_MASKS or self.features == PRETRAINED:
            return ""
        return f"{count} masks are few: of photographs, --features {PRETRAINED} and --mirror find more with them"

    @property
    def magnify(self) -> int:
        """How many times larger than they are a pretrained backbone sees images, so that it sees 128 pixels or more."""
        return next(factor for factor in (1, 2, 4) if self.size * factor >= SEEN_SIDE or factor == 4)

    @property
    def pixel_classes(self) -> tuple[str, ...]:
        """The names of the classes of pixels."""
        return ("background", "object") if self.table is None else tuple(self.table["names"])


PRESETS = {name: SegmentConfig(**values) for name, values in SIZES.items()}
DESCRIPTIONS = SIZE_DESCRIPTIONS
