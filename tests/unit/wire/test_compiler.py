"""Machine code is cached where it cannot be stale, and kernels never compile behind a call."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving.wire import compiler, layout
from serving.wire.hpack import decode_headers

ROOT = Path(__file__).parents[3]


def test_the_digest_names_every_source_and_every_fact(tmp_path):
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("a = 1")
    two.write_text("b = 1")
    first = compiler.digest([one, two], "cpu", True)
    assert compiler.digest([two, one], "cpu", True) == first
    assert compiler.digest([one, two], "cpu", False) != first
    two.write_text("b = 2")
    assert compiler.digest([one, two], "cpu", True) != first


def test_old_folders_are_pruned_and_the_newest_kept(tmp_path):
    for age in range(compiler.FOLDERS_KEPT_MAX + 3):
        folder = tmp_path / f"old{age}"
        folder.mkdir()
        os.utime(folder, (1000 - age, 1000 - age))
    folder = compiler.prepare(tmp_path, "new")
    assert folder == tmp_path / "new"
    kept = {f"old{age}" for age in range(compiler.FOLDERS_KEPT_MAX)}
    assert {path.name for path in tmp_path.iterdir()} == {"new", *kept}


def test_an_unwritable_cache_falls_back_to_a_temporary_folder_and_says_so(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        folder = compiler.prepare(tmp_path / "file", "new")
    assert folder.is_dir()
    assert tmp_path not in folder.parents
    assert "is not writable" in caplog.text


def arguments():
    state = layout.State(layout.Limits(connections=1, blocks=0))
    return [np.zeros(4, np.uint8), 0, 0, state.connections, 0, state.pool, state.headers, state.shared]


def test_a_kernel_takes_its_own_types():
    assert decode_headers(*arguments()) == 0


@pytest.mark.parametrize(
    "source",
    [
        np.zeros(4, np.int32),
        np.zeros(8, np.uint8)[::2],
        np.frombuffer(b"read-only", np.uint8),
        np.zeros((2, 2), np.uint8),
        b"bytes",
    ],
    ids=["another dtype", "a strided slice", "a read-only array", "another rank", "no array"],
)
def test_another_type_is_a_type_error_and_never_a_compile(source):
    with pytest.raises(TypeError):
        decode_headers(source, *arguments()[1:])
    assert len(decode_headers.signatures) == 1


def test_every_kernel_has_its_declared_signatures_and_keeps_the_gil():
    assert compiler.KERNELS
    for kernel in compiler.KERNELS:
        assert len(kernel.signatures) == 1, kernel.py_func.__name__
        assert not kernel.targetoptions.get("nogil"), kernel.py_func.__name__


def test_a_bounds_checked_process_has_a_cache_of_its_own_and_an_overrun_raises(tmp_path):
    program = """
import numpy as np
from serving.wire import compiler
assert compiler.BOUNDS_CHECKED
@compiler.kernel("int64(uint8[::1], int64)")
def overrun(source, at):
    return np.int64(source[at])
try:
    overrun(np.zeros(4, np.uint8), 4)
except IndexError:
    print(compiler.CACHE)
"""
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    file = tmp_path / "program.py"
    file.write_text(program)
    result = subprocess.run(
        [sys.executable, str(file)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).parent == tmp_path / "penstock" / "kernels"
    assert Path(result.stdout.strip()).name != compiler.CACHE.name
