"""Whoever waits for the kernels is told that they are compiled, and afterwards what it took."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from serving.wire import compiler, kernels


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An empty cache, and in place of the package's modules one that makes a kernel of its own when it is imported."""

    def add_one(number):
        return one_more(number)

    @compiler.part
    def one_more(number):
        return np.int64(number + 1)

    def make(_):
        compiler.kernel("int64(int64)")(add_one)

    monkeypatch.setattr(compiler, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(compiler, "KERNELS", [])
    monkeypatch.setattr(kernels, "pkgutil", SimpleNamespace(iter_modules=lambda _: [SimpleNamespace(name="ours")]))
    monkeypatch.setattr(kernels, "importlib", SimpleNamespace(import_module=make))


def test_a_compile_says_when_it_begins_and_what_it_took(package, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        result = kernels.load()
    assert (result.cache, result.compiled, result.loaded) == (tmp_path / "cache", 1, 0)
    first, last = (record.getMessage() for record in caplog.records)
    assert first.startswith("compiling the kernels, once for this version and machine")
    assert str(tmp_path / "cache") in first
    assert last == f"compiled 1 kernels in {result.cpu_s:.1f} s of CPU"


def test_kernels_that_are_in_the_cache_are_loaded_in_silence(package, caplog):
    kernels.load()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        result = kernels.load()
    assert (result.compiled, result.loaded) == (0, 1)
    assert not caplog.records


def test_whoever_wants_to_know_hears_of_every_kernel_and_not_of_its_parts_and_the_log_is_silent(package, caplog):
    heard = []
    with caplog.at_level(logging.INFO):
        kernels.load(lambda name, cpu_s: heard.append((name, cpu_s is None)))
    assert heard == [("tests.unit.wire.test_kernels.add_one", True), ("tests.unit.wire.test_kernels.add_one", False)]
    assert not caplog.records


def test_what_a_process_has_costs_it_nothing():
    kernels.load()
    again = kernels.load()
    assert (again.compiled, again.loaded) == (0, 0)
