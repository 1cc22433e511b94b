"""What is left out is counted by ending, and is a warning where it may be missed."""

from imggen.data.left_out import LeftOut


def counted(*names: str) -> LeftOut:
    left_out = LeftOut()
    for name in names:
        left_out.add(name)
    return left_out


def test_images_of_other_formats_are_a_warning() -> None:
    left_out = counted(*[f"{i}.HEIC" for i in range(30)], "x.dng", "notes.txt", "a.tar.gz", "LICENSE")
    assert left_out.warnings("d") == [
        "d: 30 .heic, 1 .dng files are left out: imggen reads PNG, JPEG, WebP, GIF, BMP and TIFF",
        "d: 1 .tar.gz file is left out: archives are not read beside other files",
    ]
    assert left_out.notes("d") == ["d: ignored 2 files that are not images (1 without an ending, 1 .txt)"]
    assert left_out.total == 34


def test_other_files_alone_are_no_warning() -> None:
    assert counted("a.txt").warnings("d") == [] and counted().notes("d") == []
    assert counted("a.txt").notes("d") == ["d: ignored 1 file that is not an image (1 .txt)"]
    many = counted(*[f"x.e{i}" for i in range(9)]).notes("d")[0]
    assert "and 4 more" in many
