"""Dropped images and painted masks, as hostile as a page can send them."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from imggen.engine.explore.fragments import escape, tiles
from imggen.engine.explore.uploads import MAX_NAME, PREFIX, PageFile, painted_mask, read_upload, safe_name
from imggen.errors import DataError


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_a_dropped_image_keeps_its_bytes() -> None:
    data = png(Image.new("RGB", (5, 4), "red"))
    file, image = read_upload({"name": "my cat.png", "data": base64.b64encode(data).decode()})
    assert (file.name, file.data, image.size) == ("my_cat.png", data, (5, 4))


@pytest.mark.parametrize(
    "sent",
    [None, [], 3, {}, {"name": "x.png"}, {"name": 3, "data": ""}, {"name": "x", "data": "*"}, {"name": "x", "data": ""}]
    + [{"name": "x.png", "data": base64.b64encode(data).decode()} for data in (b"\x89PNG\r\n", b"GIF89a", b"<svg/>")],
)
def test_what_is_no_image_is_refused(sent: object) -> None:
    with pytest.raises(DataError):
        read_upload(sent)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\windows\\cat.png", "cat.png"),
        ("-rf.png", "rf.png"),
        (".hidden", "hidden"),
        ("a;$(rm).png", "a___rm_.png"),
        ("mask.png", "image-mask.png"),
        ("..", "image.png"),
        ("/", "image.png"),
        ("\0\n", "__"),
    ],
)
def test_names_are_plain(name: str, safe: str) -> None:
    assert safe_name(name) == safe
    assert len(safe_name("x" * 500 + ".png")) == MAX_NAME


def test_every_touched_pixel_is_masked() -> None:
    canvas = np.zeros((6, 8, 4), np.uint8)
    canvas[2, 3] = (255, 0, 255, 255)
    canvas[4, 7] = (255, 0, 255, 1)
    url = PREFIX + base64.b64encode(png(Image.fromarray(canvas))).decode()
    with Image.open(io.BytesIO(painted_mask(url, (8, 6)).data)) as image:
        assert image.mode == "L" and np.argwhere(np.asarray(image) == 255).tolist() == [[2, 3], [4, 7]]
    for bad, size in ((url, (6, 8)), ("", (8, 6)), (None, (8, 6)), (PREFIX + "x", (8, 6))):
        with pytest.raises(DataError):
            painted_mask(bad, size)
    empty = PREFIX + base64.b64encode(png(Image.new("RGBA", (8, 6)))).decode()
    with pytest.raises(DataError, match="nothing is painted"):
        painted_mask(empty, (8, 6))


def test_names_of_classes_are_text_and_nothing_else() -> None:
    hostile = "<script>\"' {{x}} ${alert(1)} `\\"
    assert not set(escape(hostile)) & set("<>\"'{}$`\\")
    assert "<script>" not in tiles([PageFile("x.png", b"")], [hostile])
