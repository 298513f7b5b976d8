"""Machine code is cached where it cannot be stale, and kernels never compile behind a call."""

import errno
import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding
import numpy as np
import pytest
from numba.core import caching
from numba.core.errors import TypingError

from serving.wire import compiler, layout
from tests.support.header_blocks import decode_headers

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


@pytest.mark.parametrize(
    ("name", "features", "expected"),
    [("x86-64-v3", "", ("x86-64-v3", "")), ("generic", "+a,+b", ("generic", "+a,+b"))],
)
def test_a_fixed_cpu_is_taken_as_it_is_and_not_filled_up_from_this_machine(name, features, expected):
    assert compiler.target(name, features) == expected


def test_without_a_fixed_cpu_this_machine_is_the_target():
    assert compiler.target(None, None) == (
        llvmlite.binding.get_host_cpu_name(),
        llvmlite.binding.get_host_cpu_features().flatten(),
    )


# ---- what is in the cache is used, and what cannot be kept is no reason to stop -------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; kernels made in a test do not count as the server's."""
    monkeypatch.setattr(compiler, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(compiler, "KERNELS", [])
    compiler._say_that_nothing_is_kept.cache_clear()
    return tmp_path / "cache"


def read_only(monkeypatch):
    """Make every write to a cache fail, for whoever runs the tests: modes do not count for root."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(caching.IndexDataCacheFile, "_open_for_write", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)


def double(number):
    return np.int64(number + number)


def square(number):
    return np.int64(number * number)


def make(function):
    """Make a kernel; return it, and whether it came from the cache."""
    made = compiler.kernel("int64(int64)")(function)
    return made, bool(made.stats.cache_hits)


def test_a_kernel_is_loaded_the_second_time(cache):
    assert make(double)[1] is False
    made, was_loaded = make(double)
    assert (made(21), was_loaded) == (42, True)


def test_a_read_only_cache_is_used_as_it_is(cache, monkeypatch, caplog):
    make(double)
    read_only(monkeypatch)
    assert compiler.prepare(cache.parent, cache.name) == cache
    made, was_loaded = make(double)
    assert (made(21), was_loaded) == (42, True)
    assert not caplog.records


def test_what_a_read_only_cache_lacks_is_compiled_and_said_once(cache, monkeypatch, caplog):
    make(double)
    read_only(monkeypatch)
    for _ in range(2):
        made, was_loaded = make(square)
        assert (made(6), was_loaded) == (36, False)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"compiled anew at every start: {cache} cannot be written (Read-only" in record.getMessage()


def test_a_cache_that_can_be_neither_read_nor_made_is_said_once(cache, caplog):
    cache.write_text("not a folder")
    assert compiler.prepare(cache, "new") == cache / "new"
    made, was_loaded = make(double)
    assert (made(21), was_loaded) == (42, False)
    assert "cannot be written" in caplog.text


@pytest.mark.skipif(os.getuid() == 0, reason="modes do not count for root")
def test_a_folder_without_the_right_to_write_is_a_read_only_cache(cache):
    make(double)
    cache.chmod(0o555)
    try:
        assert make(double)[1] is True
        assert make(square)[1] is False
    finally:
        cache.chmod(0o755)


def test_the_place_of_the_sources_does_not_matter_and_their_text_does(cache, tmp_path):
    text = "def triple(number):\n    return number * 3\n"
    hits = []
    for folder, source in (("one", text), ("two", text), ("three", text.replace("3", "4"))):
        path = tmp_path / folder / "twin.py"
        path.parent.mkdir()
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("twin", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        made, was_loaded = make(module.triple)
        hits.append((made(2), was_loaded))
    assert hits == [(6, False), (6, True), (8, False)]


def test_an_edit_of_another_file_of_the_folder_compiles_a_kernel_anew(cache, tmp_path):
    (tmp_path / "twin.py").write_text("def triple(number):\n    return number * 3\n")
    hits = []
    for other in ("a = 1", "a = 1", "a = 2"):
        (tmp_path / "other.py").write_text(other)
        compiler._digest_beside.cache_clear()  # as in another process
        spec = importlib.util.spec_from_file_location("twin", tmp_path / "twin.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        hits.append(make(module.triple)[1])
    assert hits == [False, True, False]


def arguments():
    state = layout.State(layout.Limits(connections=1, blocks=0))
    return [np.zeros(4, np.uint8), 0, 0, state.connections, 0, state.pool, state.headers, state.shared, True]


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


def test_a_kernel_that_allocates_does_not_compile():
    with pytest.raises(TypingError, match="empty"):

        @compiler.kernel("int64(int64)")
        def allocates(count):
            return np.zeros(count, np.int64).size


def test_every_kernel_that_runs_per_request_has_its_declared_signatures_and_keeps_the_gil():
    kernels = [kernel for kernel in compiler.KERNELS if "statistics" not in kernel.py_func.__module__]
    assert kernels
    for kernel in kernels:
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
