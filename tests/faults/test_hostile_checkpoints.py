"""A thousand hostile files of every kind that imggen reads besides images; and that no file can run code.

`python -m tests.faults.hostile checkpoints --count 100000` tries more.
"""

import ast
from pathlib import Path

import pytest
import torch

import imggen
from imggen.engine.checkpoints import load_backend
from imggen.errors import CheckpointError
from imggen.io.checkpoint import read_header, write_checkpoint
from tests.faults.hostile import check
from tests.faults.hostile_checkpoints import TARGETS

PACKAGE = Path(imggen.__file__).parent
# What unpickles, or runs text as code.
MODULES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.hub.load", "np.load", "numpy.load"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("weights", 700), ("state", 300), ("features", 700), ("config", 500)])
def test_hostile_files_are_refused_or_work(name: str, count: int) -> None:
    accepted = check(TARGETS[name], count)
    assert 0 < accepted < count / 2


@pytest.mark.parametrize("family", [["x"] * 5000, "x" * 5000, {"x" * 5000: 1}])
def test_messages_shorten_what_a_file_says(tmp_path: Path, family: object) -> None:
    path = tmp_path / "w.safetensors"
    write_checkpoint(path, {"a": torch.zeros(1)}, {"config": {"family": family}}, kind="weights")
    with pytest.raises(CheckpointError, match="unknown family") as caught:
        load_backend(path, device="cpu")
    assert len(caught.value.message) < 200 + len(str(path))


@pytest.mark.slow
def test_nothing_unpickles_or_runs_text() -> None:
    """np.load only without pickles, torch.load (of a package's weights) for tensors only.

    Inception's weights are a pickle, too: torch-fidelity reads it, for tensors only.
    """
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names} | {getattr(node, "module", None)}
                assert not MODULES & names, path
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in CALLS:
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                safe = {"np.load": ("allow_pickle", "False"), "torch.load": ("weights_only", "True")}
                name, value = safe[ast.unparse(node.func)]
                assert keywords[name] == value, path


@pytest.mark.parametrize("kind", ["weights", "state", "features"])
@pytest.mark.parametrize("data", [b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.", b"PK\x03\x04" + bytes(64)])
def test_pickles_are_refused_unread(tmp_path: Path, kind: str, data: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(data + bytes(64))
    with pytest.raises(CheckpointError, match="is a pickle"):
        read_header(path, kind)
    assert not Path("owned").exists()
