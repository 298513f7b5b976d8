"""Laws of the output, with h2's client as the judge: it accepts every frame, and no window is ever exceeded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.answering import Story, digest
from tests.support.environments import CACHE

ROOT = Path(__file__).parents[2]
CORPUS = 9000, 40


@pytest.mark.parametrize("first", range(0, 300, 30))
def test_every_answer_arrives_whole_and_in_order_whatever_the_windows_do(first):
    for seed in range(first, first + 30):
        Story(seed).run()


def test_a_corpus_gives_the_same_with_bounds_checks():
    seed, count = CORPUS
    compiler = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_OPT": "1"}
    environment = {**os.environ, **compiler, "XDG_CACHE_HOME": str(CACHE / "bounds-checked")}
    checked = subprocess.run(
        [sys.executable, "-m", "tests.support.answering", str(seed), str(count)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr[-3000:]
    assert checked.stdout == digest(seed, count)
