"""Decoding in processes and in threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imggen.data import workers
from imggen.data.dataset import DataOptions, load_dataset
from imggen.data.scan import open_source
from imggen.data.workers import DecodeJob
from tests.data.helpers import WarningRecorder, load, packed, tree, write_images


@pytest.mark.slow
def test_processes_agree_with_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "d", 40)
    threads = np.array(load(tmp_path, crop="random").images)
    monkeypatch.setattr(workers, "MAX_IMAGES_FOR_THREADS", 1)
    monkeypatch.setattr(workers, "usable_cores", lambda: 2)
    chosen = DataOptions(cache_dir=tmp_path / "other", crop="random")
    recorder = WarningRecorder()
    data = load_dataset(str(tmp_path / "d"), chosen, max_size=64, reporter=recorder)
    assert (data.images == threads).all() and not recorder.warnings


@pytest.mark.parametrize("kind", ["folder", "d.zip", "d.tar", "d.tgz"])
def test_a_job_survives_json(tmp_path: Path, kind: str) -> None:
    root = tree(tmp_path / "d", "a.png", "x/b.png")
    spec = root if kind == "folder" else packed(root, tmp_path / kind)
    source = open_source(str(spec), cache_dir=tmp_path / "cache")
    job = DecodeJob.from_json(DecodeJob(source, 16, 3, "center", "target", 128).to_json())
    assert (job.source.names, job.row_bytes, job.crop, job.target, job.offset) == (
        source.names,
        768,
        "center",
        "target",
        128,
    )
    for i, name in enumerate(source.names):
        assert job.source.image(i) == source.image(i) == (root / name).read_bytes()


@pytest.mark.slow
def test_workers_do_not_import_torch() -> None:
    check = "import sys, imggen.data.workers, imggen.data.cache; sys.exit('torch' in sys.modules)"
    root = Path(workers.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", check], check=False, cwd=root).returncode == 0
