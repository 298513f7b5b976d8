import numpy as np

from serving.execution.memory import available_bytes, resident_bytes


def test_memory_that_is_used_is_counted():
    before = resident_bytes()
    held = np.ones(64 << 20, np.uint8)
    assert resident_bytes() - before > 32 << 20
    del held


def test_something_is_left():
    assert available_bytes() > 0
