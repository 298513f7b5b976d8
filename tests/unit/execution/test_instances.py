import threading

from serving.execution.instances import InstanceGroup
from tests.support.sessions import DEADLINE_S


def test_every_instance_serves_on_a_thread_of_its_own_until_the_work_is_over():
    together, threads = threading.Barrier(3), set()

    def serve():
        together.wait(DEADLINE_S)  # passes only when all three run at the same time
        threads.add(threading.current_thread().name)

    InstanceGroup("m/1", 3, serve).join()
    assert threads == {"instance m/1#0", "instance m/1#1", "instance m/1#2"}
