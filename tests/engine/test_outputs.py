"""Which outputs may be written."""

from pathlib import Path

import pytest
from PIL import Image

from imggen.engine.outputs import check_writable, output_kind, refuse_file, refuse_folder
from imggen.errors import DataError, UsageError
from tests.helpers import run_cli


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("-", "stdout"),
        ("x-%05d.png", "pattern"),
        ("x.png", "grid"),
        ("x", "folder"),
        ("x.png/", "folder"),
        ("a%d/x.png", "grid"),
    ],
)
def test_kinds(output: str, kind: str) -> None:
    assert output_kind(output) == kind


def test_existing_files_and_folders_need_force() -> None:
    Path("file").write_bytes(b"")
    Path("full").mkdir()
    Path("full/file").write_bytes(b"")
    for refuse, name in ((refuse_file, "file"), (refuse_folder, "full")):
        with pytest.raises(UsageError, match="already exists"):
            refuse(Path(name), False)
        refuse(Path(name), True)
    with pytest.raises(UsageError, match="is a folder"):
        refuse_file(Path("full"), True)
    with pytest.raises(UsageError, match="is a file"):
        refuse_folder(Path("file"), True)


def test_unfinished_files_do_not_count() -> None:
    Path("folder").mkdir()
    Path("folder/.x.png.1234.part").write_bytes(b"")
    refuse_folder(Path("folder"), False)


def test_folders_that_cannot_be_written_to() -> None:
    Path("file").write_bytes(b"")
    with pytest.raises(DataError, match="is a file"):
        check_writable(Path("file/a/b"))
    check_writable(Path("new/a/b"))
    with pytest.raises(UsageError, match="there is no folder"):
        refuse_file(Path("new/x.png"), force=True)


@pytest.mark.parametrize(
    ("words", "ending"),
    [
        ("sample gan -n 4", "png"),
        ("interpolate gan --seeds 1,2", "gif"),
        ("inpaint gan --image x.png --box 1,1,2,2", "png"),
        ("stylize --content x.png --style x.png", "png"),
        ("translate vae --image x.png", "png"),
        ("embed vae --image x.png", "csv"),
        ("search vae --data . --image x.png", "png"),
        ("classify vae --image x.png", "csv"),
        ("evaluate gan --data .", "html"),
        ("directions gan", "png"),
        ("export gan", "pt2"),
    ],
)
def test_a_folder_is_never_overwritten_by_a_file(capsys: pytest.CaptureFixture[str], words: str, ending: str) -> None:
    Image.new("RGB", (8, 8)).save("x.png")
    folder = Path(f"out.{ending}")
    folder.mkdir()
    for force in ((), ("--force",)):
        code, _, err = run_cli(capsys, *words.split(), "-o", folder, *force)
        assert code == 2 and f"error: {folder} is a folder, not a file" in err, err
