"""Answers do not depend on what else is in the batch: requests grouped at random equal the same requests alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batching.entries import QueuedRequest
from serving.clock import MonotonicClock
from serving.execution.padding import fitted
from tests.support import graphs
from tests.support.sessions import HeldGraph, Posts, model_config, servable

ROWS = st.lists(st.integers(0, 6), min_size=1, max_size=12)


def bits(array):
    return array.tolist() if array.dtype == np.object_ else array.tobytes()


def submit(one, inputs, answers):
    rows = len(inputs[0])
    lane = tuple(array.shape[1:] for array in inputs)
    one.submit(
        QueuedRequest(
            inputs, rows=rows, lane=lane, input_bytes=0, arrival_ns=0, deadline_ns=None, settle=answers.append
        )
    )


def answered_alone(one, session, posts, requests):
    results = []
    for inputs in requests:
        answers = []
        submit(one, inputs, answers)
        posts.run()
        results.append(answers)
    return results


def answered_together(one, session, posts, requests):
    """Queue all of them behind a run that is held up, then let batches form."""
    session.hold()
    plug, results = [], [[] for _ in requests]
    submit(one, one_row(one.signature), plug)
    session.wait_until_running()
    del session.runs[:]
    for inputs, answers in zip(requests, results, strict=True):
        submit(one, inputs, answers)
    session.let_go()
    while not all(results):
        posts.run()
    return results


def one_row(signature):
    shapes = [(1, *(max(1, side) for side in spec.shape[1:])) for spec in signature.inputs]
    return [
        np.full(shape, "", np.object_) if spec.datatype.dtype == np.object_ else np.zeros(shape, spec.datatype.dtype)
        for spec, shape in zip(signature.inputs, shapes, strict=True)
    ]


def four_numbers(rng, rows):
    return [rng.standard_normal((rows, 4)).astype(np.float32)]


GRAPHS = {
    "affine": (graphs.affine(), four_numbers),
    "fixed rows": (graphs.affine(rows=8), four_numbers),
    "padded": (graphs.affine(), four_numbers),
    "two_inputs": (
        graphs.add_and_subtract(),
        lambda rng, rows: [rng.integers(-(2**40), 2**40, (rows, 16)) for _ in range(2)],
    ),
    "strings": (
        graphs.identity("BYTES"),
        lambda rng, rows: [rng.choice(np.array(["", "a", "é", "long" * 9], np.object_), (rows, 4))],
    ),
    "lanes": (
        graphs.open_inner(),
        lambda rng, rows: [rng.standard_normal((rows, rng.integers(1, 4))).astype(np.float32)],
    ),
}


ALLOWED = {"fixed rows": (8,), "padded": (3, 7, 8)}
"""The sizes to which batches are padded."""


@pytest.mark.parametrize("name", GRAPHS)
def test_a_batched_answer_equals_the_answer_alone_bit_for_bit(tmp_path, name):
    graph, make_inputs = GRAPHS[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(graph)
    posts, session = Posts(), HeldGraph(path)
    allowed = ALLOWED.get(name, ())
    config = model_config(batch_rows_max=8, batch_rows_allowed=allowed)
    one = servable(fitted(session, allowed), MonotonicClock(), posts, config=config)
    grouped = []

    @settings(max_examples=40)
    @given(ROWS, st.integers(0, 2**32 - 1))
    def check(rows_of, seed):
        rng = np.random.default_rng(seed)
        requests = [make_inputs(rng, rows) for rows in rows_of]
        alone = answered_alone(one, session, posts, requests)
        together = answered_together(one, session, posts, requests)
        assert max(session.runs) <= 8
        assert not allowed or {*session.runs} <= {*allowed}
        grouped.append(len(session.runs) - 1 < len(requests))
        for (left,), (right,), inputs in zip(alone, together, requests, strict=True):
            assert [array.shape[0] for array in right] == [len(inputs[0])] * len(right)
            assert list(map(bits, left)) == list(map(bits, right))

    check()
    one.close()
    assert any(grouped), "no example was batched, so nothing was compared"
