"""Which mask file belongs to which image. No torch."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from imggen.data.files import images_below
from imggen.data.left_out import LeftOut
from imggen.engine.options import InpaintOptions
from imggen.errors import DataError


class MaskFiles:
    """The mask of `options`: one file for all images, or a folder with a mask for each, or none.

    `left_out` is what a folder holds beside masks. Raises DataError for a folder without images.
    """

    def __init__(self, options: InpaintOptions) -> None:
        self.path = options.mask
        self.is_folder = self.path is not None and self.path.is_dir()
        self.left_out = LeftOut()
        self._by_stem: dict[str, list[Path]] = {}
        self._by_lower_case: dict[str, Path] = {}
        if self.path is None or not self.is_folder:
            return
        masks, self.left_out = images_below(self.path, [options.image, Path(options.output)])
        for mask in masks:
            self._by_stem.setdefault(_composed(mask.with_suffix("")), []).append(mask)
            self._by_lower_case.setdefault(_composed(mask.with_suffix("")).casefold(), mask)

    def find(self, image: Path) -> Path | None:
        """The mask of an image, which is given relative to the folder of the images.

        In a folder it is the file in the same place with the same name, or the same name but for its ending. Names
        that differ only in how Unicode composes their letters are the same. Raises DataError if there is none, or more
        than one.
        """
        if self.path is None or not self.is_folder:
            return self.path
        found = self._by_stem.get(_composed(image.with_suffix("")), [])
        if not found:
            raise DataError(f"{image} has no mask in {self.path}", self._hint(image))
        for same in (
            [mask for mask in found if mask == image],
            [mask for mask in found if _composed(mask) == _composed(image)],
            [mask for mask in found if mask.with_suffix("") == image.with_suffix("")],
            found,
        ):
            if len(same) == 1:
                return self.path / same[0]
        names = ", ".join(mask.name for mask in found)
        raise DataError(f"{image} has more than one mask: {names}", "keep one of them")

    def _hint(self, image: Path) -> str:
        wanted = image.with_suffix(".png")
        other = self._by_lower_case.get(_composed(image.with_suffix("")).casefold())
        if other is None:
            return f"call it {wanted}"
        return f"{other} differs in upper and lower case: call it {image.with_suffix(other.suffix)}"


def _composed(path: Path) -> str:
    """The path in Unicode's composed form (NFC), as which names that look the same are equal."""
    return unicodedata.normalize("NFC", path.as_posix())
