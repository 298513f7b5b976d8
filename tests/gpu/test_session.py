"""A graph that runs on a GPU: each input may lie on the host or in its memory, and outputs may stay there."""

import contextlib
import gc
import threading

import numpy as np
import pytest

from serving.config import InstancesConfig, SessionConfig
from serving.errors import LoadError
from serving.execution.graph import Graph
from serving.execution.session import Session
from serving.gpu.device import IS_SIMULATED, Gpu
from serving.gpu.memory import GpuArray, foreign, uploaded
from serving.types import Datatype
from tests.support import graphs

OF_NUMBERS = [kind for kind in Datatype if kind is not Datatype.BYTES]


@pytest.fixture
def load(gpu, place):
    instances, session = place

    def load(graph, **more):
        return Session(Graph(graph), SessionConfig(**session), InstancesConfig(**{**instances, **more}))

    return load


def there(array):
    """Return a copy on the GPU."""
    return GpuArray(uploaded(array), Gpu(0))


def octets(kind, rows):
    """Return rows of four values, of bits of all kinds, but for BOOL, whose bits are 0 and 1."""
    random = np.random.default_rng(rows)
    bits = random.integers(0, 2 if kind is Datatype.BOOL else 256, rows * 4 * kind.item_bytes, np.uint8)
    return bits.view(kind.dtype).reshape(rows, 4)


@pytest.mark.parametrize("outputs_stay", [False, True])
@pytest.mark.parametrize("given", [np.array, there], ids=["from the host", "from the GPU"])
@pytest.mark.parametrize("kind", OF_NUMBERS)
def test_every_datatype_goes_through_the_gpu_unchanged(load, gpu, kind, given, outputs_stay):
    session = load(graphs.identity(kind.wire_name))
    session.outputs_stay = outputs_stay
    for rows in (3, 0, 1, 9):
        array = octets(kind, rows)
        with gpu.active():
            (output,) = session.run([given(array)])
            assert isinstance(output, GpuArray if outputs_stay and rows else np.ndarray)
            assert (output.dtype, output.shape) == (kind.dtype, array.shape)
            assert np.asarray(output).tobytes() == array.tobytes()


def test_one_input_may_lie_on_the_host_and_another_on_the_gpu(load):
    session = load(graphs.add_and_subtract())
    one, other = np.full((2, 16), 7), np.full((2, 16), 5)
    for inputs in ([one, there(other)], [there(one), other]):
        added, subtracted = session.run(inputs)
        assert (added[1, 15], subtracted[1, 15]) == (12, 2)


@pytest.mark.parametrize("outputs_stay", [False, True])
@pytest.mark.parametrize("kind", [Datatype.FP32, Datatype.BF16])
def test_a_tensor_without_dimensions_keeps_its_shape(load, gpu, kind, outputs_stay):
    session = load(graphs.identity(kind.wire_name, ()))
    session.outputs_stay = outputs_stay
    number = octets(kind, 1)[0, :1].reshape(())
    (output,) = session.run([number])
    with gpu.active():
        assert (output.shape, np.asarray(output).tobytes()) == ((), number.tobytes())


def test_a_bound_of_memory_is_kept(load):
    load(graphs.heavy(), gpu_memory_bytes_max=64 << 20).run([np.zeros((1, 512), np.float32)])
    if not IS_SIMULATED:
        with pytest.raises(LoadError, match=r"(?i)memory"):
            load(graphs.heavy(), gpu_memory_bytes_max=1 << 20)


def test_arrays_that_do_not_lie_side_by_side_are_taken(load):
    array = np.arange(32, dtype=np.float32).reshape(8, 4)[::2]
    assert load(graphs.identity("FP32")).run([array])[0].tolist() == array.tolist()


def test_what_lies_on_the_gpu_is_bound_where_it_is(load):
    session = load(graphs.affine())
    session.outputs_stay = True
    given = there(np.ones((2, 4), np.float32))
    (once,) = session.run([given])
    (twice,) = session.run([once])
    assert isinstance(twice, GpuArray)
    assert (twice.shape, twice.dtype, twice.ndim, len(twice)) == ((2, 4), np.float32, 2, 2)
    assert np.asarray(twice).tolist() == [[7.0] * 4] * 2
    assert np.asarray(once).tolist() == [[3.0] * 4] * 2  # each run has outputs of its own
    assert np.asarray(once, np.int64).dtype == np.int64


def test_several_inputs_and_outputs_keep_their_order(load):
    added, subtracted = load(graphs.add_and_subtract()).run([np.full((1, 16), 7), np.full((1, 16), 5)])
    assert (added[0, 0], subtracted[0, 0]) == (12, 2)


def test_a_graph_of_fixed_shape_runs(load):
    assert load(graphs.fixed_shape()).run([np.zeros((2, 3), np.float32)])[0].shape == (2, 3)


def test_outputs_outlive_their_session(load):
    session = load(graphs.affine())
    (output,) = session.run([np.ones((2, 4), np.float32)])
    session.close()
    gc.collect()
    assert output.tolist() == [[3.0] * 4] * 2


def test_runs_at_once_have_memory_of_their_own(load):
    session, answers = load(graphs.affine()), {}
    barrier = threading.Barrier(4)

    def run(number):
        barrier.wait(10)
        answers[number] = [session.run([np.full((3, 4), number, np.float32)])[0][0, 0] for _ in range(20)]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: [2 * number + 1] * 20 for number in range(4)}


def test_what_a_graph_raises_is_raised_and_the_next_run_is_fine(load):
    session = load(graphs.affine())
    with pytest.raises(Exception, match=r"(?i)dimension|shape"):
        session.run([np.ones((2, 5), np.float32)])
    assert session.run([np.ones((1, 4), np.float32)])[0].tolist() == [[3.0] * 4]


def test_a_model_of_texts_keeps_its_tensors_on_the_host(load):
    session = load(graphs.identity("BYTES"))
    assert session.gpu is None
    assert session.run([np.array([["a", "b", "c", "d"]], np.object_)])[0].tolist() == [["a", "b", "c", "d"]]
    assert not session.runs_on_caller


def test_its_batches_do_not_run_on_the_io_thread(load):
    session = load(graphs.affine())
    assert not session.runs_on_caller
    assert session.gpu.place == (("cpu", 0) if IS_SIMULATED else ("cuda", 0))


def test_a_gpu_that_is_not_there_is_refused(load):
    with pytest.raises(LoadError, match=r"\[instances\] gpus = \[99\], expected a number from 0 to \d+: there are \d+"):
        load(graphs.affine(), gpus=(99,))


def test_memory_of_others_is_described_as_it_lies(load):
    array = there(np.arange(6, dtype=np.int16).reshape(2, 3))
    other = foreign(array.address, (3, 2), array.dtype, gpu=array.gpu, owner=array)
    assert np.asarray(other).tolist() == [[0, 1], [2, 3], [4, 5]]


def test_what_lies_on_a_gpu_is_copied_while_the_thread_uses_that_gpu(gpu):
    actives = []

    class Watched(Gpu):
        @contextlib.contextmanager
        def active(self):
            actives.append("begun")
            with super().active():
                yield
            actives.append("ended")

    with gpu.active():
        array = GpuArray(uploaded(np.arange(3)), Watched(0))
    assert np.array(array, order="C").tolist() == [0, 1, 2]
    assert actives == ["begun", "ended"]
