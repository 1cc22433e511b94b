"""Decoding in processes and in threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
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


@pytest.mark.slow
@pytest.mark.process
def test_killed_while_decoding_leaves_what_the_next_run_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker processes end too; the folder of the next run's cache has nothing but what is complete."""
    write_images(tmp_path / "d", 40)
    code = (
        "import os, signal, time\n"
        "from imggen.data import workers\n"
        "from pathlib import Path\n"
        "from imggen.data.cache import decode_into_cache\n"
        "from imggen.data.cache_entry import Form\n"
        "from imggen.data.scan import open_source\n"
        "from imggen.reporting import Silent\n"
        "if __name__ == '__main__':\n"
        "    workers.MAX_IMAGES_FOR_THREADS, workers.usable_cores = 1, lambda: 2\n"
        "    real = workers._decode_chunks\n"
        "    def killed(executor, *arguments):\n"
        "        for result in real(executor, *arguments):\n"
        "            print(*executor._processes, flush=True)\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "            yield result\n"
        "    workers._decode_chunks = killed\n"
        "    cache = Path('cache')\n"
        "    source = open_source('d', cache_dir=cache)\n"
        "    decode_into_cache(source, Form(20, 3, 'center'), cache, False, Silent())\n"
    )
    (tmp_path / "main.py").write_text(code)
    root = str(Path(workers.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    cache = tmp_path / "cache"
    assert len([path for path in cache.iterdir() if path.name.startswith(".") and path.is_dir()]) == 1
    for pid in map(int, done.stdout.split()):
        for _ in range(1_000):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.02)
        else:
            raise AssertionError("a worker process outlives its parent")
    assert len(load(tmp_path)) == 40
    assert not [path for path in cache.iterdir() if path.name.startswith(".") and path.is_dir()]
