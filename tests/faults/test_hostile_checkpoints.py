"""A thousand hostile files of every kind that imggen reads besides images; and that no file can run code.

`python -m tests.faults.hostile checkpoints --count 100000` tries more.
"""

import ast
import re
from pathlib import Path

import pytest

import imggen
from imggen.errors import CheckpointError
from imggen.io.checkpoint import read_header
from tests.faults.hostile import check
from tests.faults.hostile_checkpoints import TARGETS

PACKAGE = Path(imggen.__file__).parent
# What unpickles, or runs text as code. Inception's weights are read by torch-fidelity, with tensors only allowed.
FORBIDDEN = re.compile(r"\b(torch\.load|pickle\.loads?|marshal|shelve|yaml\.load|eval|exec|compile|__import__)\(")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("weights", 1000), ("state", 500), ("features", 1000), ("config", 700)])
def test_hostile_files_are_refused_or_work(name: str, count: int) -> None:
    accepted = check(TARGETS[name], count)
    assert 0 < accepted < count / 2


def test_nothing_unpickles_or_runs_text() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        calls = [match[0] for line in text.splitlines() for match in FORBIDDEN.finditer(line)]
        assert not [call for call in calls if not re.search(rf"(re|\w+)\.{re.escape(call)}", text)], path
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            assert not {"pickle", "dill", "joblib", "marshal", "shelve"} & {*names, module}, path
        assert text.count("np.load(") == text.count("allow_pickle=False") - text.count("np.save("), path


@pytest.mark.parametrize("kind", ["weights", "state", "features"])
@pytest.mark.parametrize("data", [b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.", b"PK\x03\x04" + bytes(64)])
def test_pickles_are_refused_unread(tmp_path: Path, kind: str, data: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(data + bytes(64))
    with pytest.raises(CheckpointError, match="is a pickle"):
        read_header(path, kind)
    assert not Path("owned").exists()
