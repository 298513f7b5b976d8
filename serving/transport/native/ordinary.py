"""The ordinary path: every call that the kernels do not decode, a little of it per turn of the event loop.

A connection that sends many such calls must not keep the others waiting, so calls are run in rounds, one per
connection, until the turn's time for them is used up.
"""

from collections import OrderedDict

from serving.transport.native.calls import StreamCall, UnaryCall
from serving.transport.native.connection import Connection
from serving.transport.native.core import Core
from serving.transport.native.turn import Turn

TURN_NS = 500_000
"""A turn works so long on ordinary calls, and finishes the one it is at."""


class OrdinaryWork:
    """Calls that wait for their turn: a unary call once, a streaming one once for each message that waits in it.

    Bounded by the streams that there can be and by what each lets wait, see `StreamCall`. Lives on the I/O thread.
    """

    def __init__(self, core: Core, turn: Turn) -> None:
        self._core = core
        self._turn = turn
        self._at_work: OrderedDict[Connection, None] = OrderedDict()

    def add(self, call: UnaryCall | StreamCall) -> None:
        """Have a call run, behind those of its connection that wait."""
        connection = call.connection
        connection.waiting_work.append(call)
        self._at_work[connection] = None
        self._turn.wake()

    def run(self) -> bool:
        """Run calls until this turn's time is over; say whether some are left. The first phase of a turn."""
        at_work = self._at_work
        end_ns = self._core.now_ns() + TURN_NS
        while at_work and self._core.now_ns() < end_ns:
            connection, _ = at_work.popitem(last=False)
            call = connection.waiting_work.popleft()
            if connection.waiting_work:
                at_work[connection] = None
            call.run()
        return bool(at_work)
