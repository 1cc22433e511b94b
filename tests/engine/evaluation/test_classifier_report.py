"""The report of a classifier: its numbers open their images, in a real browser."""

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imggen.engine.evaluation.classifier_report import write_classifier_report
from imggen.io.image import ImageArray
from tests.helpers import browser_words


def write_report(path: Path, temperature: float | None = 1.0) -> None:
    """Six images of two classes, of which one is taken for the other; a class has a name that is HTML."""
    labels, guesses = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 1, 1])
    sureness = torch.tensor([0.9, 0.8, 0.55, 0.9, 0.7, 0.6])
    estimate = {"value": 5 / 6, "low": 0.5, "high": 1.0}
    names = ["ants", "<b>bees</b>"]
    document: dict[str, Any] = {
        "model": "run", "data": "imgs", "split": "test", "count": 6, "baselines_from": "5 images", "classes": names,
        "temperature": temperature,
        "metrics": dict.fromkeys(("accuracy", "balanced_accuracy", "calibration_error"), estimate),
        "baselines": dict.fromkeys(("majority", "pixels", "untrained"), estimate),
        "confusion": [[2, 1], [0, 3]],
        "least_sure": [{"path": "2.png", "class": names[0], "label": names[1], "probability": 0.55}],
    }  # fmt: skip

    def images(indices: list[int]) -> ImageArray:
        return np.stack([np.full((16, 16, 3), 40 * index, np.uint8) for index in indices])

    write_classifier_report(path, document, labels, guesses, sureness, [2], images, Path("missing.jsonl"))


def test_a_section_for_each_number() -> None:
    write_report(Path("r.html"))
    page = Path("r.html").read_text(encoding="utf-8")
    assert set(re.findall(r'href="#(cell-\d-\d)"', page)) == set(re.findall(r'id="(cell-\d-\d)"', page))
    assert page.count('<section class="cell"') == 3 and "<b>bees" not in page and "55%, is ants" in page
    assert "not calibrated" not in page and "Accuracy of an untrained network" in page
    write_report(Path("u.html"), temperature=None)
    assert "not calibrated" in Path("u.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)


@pytest.mark.slow
@pytest.mark.browser
def test_numbers_open_their_images_in_a_real_browser() -> None:
    write_report(Path("r.html"))
    script = (
        "<script>addEventListener('load',()=>{const seen=()=>[...document.querySelectorAll('section.cell')]"
        ".filter(s=>s.offsetHeight>0).map(s=>s.id).join();const before=seen();"
        "document.querySelector('a[href=\"#cell-0-1\"]').click();setTimeout(()=>{document.title="
        "[before||'none',seen(),[...document.images].every(i=>i.complete&&i.naturalWidth>0),"
        "document.documentElement.scrollWidth<=innerWidth].join(' ')},200)})</script></body>"
    )
    page = Path("r.html").read_text(encoding="utf-8").replace("</body>", script)
    Path("probe.html").write_text(page, encoding="utf-8")
    words = [*browser_words(), "--dump-dom", Path("probe.html").resolve().as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title and title[1] == "none cell-0-1 true true", done.stderr
