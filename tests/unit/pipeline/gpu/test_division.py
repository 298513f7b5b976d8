"""What of a pipeline runs on the GPU: next to the model, and nothing that only the CPU can do in between."""

from serving.pipeline.gpu import division
from serving.pipeline.step import Flow, Half, Host, Step, same
from serving.types import DYNAMIC, Datatype, TensorSpec


def flow(number):
    return Flow(TensorSpec(f"t{number}", Datatype.FP32, (DYNAMIC, 3)), number)


def step(name, reads, writes):
    work = Host(lambda arrays, _: arrays)
    return Step(name, tuple(map(flow, reads)), tuple(map(flow, writes)), work, same)


def half(given, steps, results):
    return Half(tuple(map(flow, given)), tuple(step(*each) for each in steps), tuple(map(flow, results)))


def divided(divide, whole):
    """Return the names of steps, what is given and what results, of the host's part and the GPU's."""
    parts = divide(whole, lambda step: step.name.startswith("gpu"))
    return [
        (
            [step.name for step in part.steps],
            [flow.number for flow in part.given],
            [flow.number for flow in part.results],
        )
        for part in (parts.host, parts.gpu)
    ]


def test_before_the_model_the_last_steps_run_on_the_gpu():
    steps = [("gpu too early", [0], [1]), ("cpu", [1], [2]), ("gpu", [2], [3]), ("gpu last", [3], [4])]
    host, gpu = divided(division.before, half([0], steps, [4]))
    assert host == (["gpu too early", "cpu"], [0], [2])
    assert gpu == (["gpu", "gpu last"], [2], [4])


def test_what_the_cpu_reads_as_well_is_made_on_the_cpu():
    steps = [("gpu read by both", [0], [1]), ("cpu", [1], [2]), ("gpu", [1], [3])]
    host, gpu = divided(division.before, half([0], steps, [2, 3]))
    assert host == (["gpu read by both", "cpu"], [0], [1, 2])
    assert gpu == (["gpu"], [1, 2], [2, 3])


def test_what_comes_as_the_model_takes_it_goes_over_the_bus_too():
    host, gpu = divided(division.before, half([0, 1], [("gpu", [0], [2])], [2, 1]))
    assert host == ([], [0, 1], [0, 1])
    assert gpu == (["gpu"], [0, 1], [2, 1])


def test_without_a_step_for_the_gpu_the_cpu_does_all():
    host, gpu = divided(division.before, half([0], [("cpu", [0], [1])], [1]))
    assert host == (["cpu"], [0], [1])
    assert gpu == ([], [1], [1])


def test_behind_the_model_the_first_steps_run_on_the_gpu():
    steps = [("gpu", [0], [1]), ("gpu second", [1], [2]), ("cpu", [2], [3]), ("gpu too late", [3], [4])]
    host, gpu = divided(division.after, half([0], steps, [4]))
    assert gpu == (["gpu", "gpu second"], [0], [2])
    assert host == (["cpu", "gpu too late"], [2], [4])


def test_what_the_model_answers_unchanged_is_left_to_the_host():
    host, gpu = divided(division.after, half([0, 1], [("gpu", [0], [2])], [2, 1]))
    assert gpu == (["gpu"], [0], [2])
    assert host == ([], [2, 1], [2, 1])


def test_a_tensor_that_both_read_is_given_to_both():
    steps = [("gpu", [0], [1]), ("cpu", [0], [2])]
    host, gpu = divided(division.after, half([0], steps, [1, 2]))
    assert gpu == (["gpu"], [0], [1])
    assert host == (["cpu"], [0, 1], [1, 2])
