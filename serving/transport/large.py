"""Large messages are decoded and encoded beside the I/O thread, which would answer nobody else meanwhile.

A message of 64 MiB can hold sixteen million strings, seconds of work. Small ones, which are nearly all, are handled at
once. `decode` and `encode` are called on the I/O thread and call back there.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from serving.errors import InternalError, Overloaded, ServingError
from serving.model import Post
from serving.transport.calls import Message
from serving.transport.codec import decode_request
from serving.types import InferAnswer, InferRequest
from serving.validation import with_arrays

LARGE_BYTES = 64 << 10
DECODING_MAX = 256
"""Large messages that wait to be decoded; further ones are refused."""

T = TypeVar("T")
M = TypeVar("M", bound=Message)
_log = logging.getLogger(__name__)


class LargeMessages:
    """Decides where a message is worked on. Bound: `DECODING_MAX`."""

    def __init__(self, worker: Executor, post: Post) -> None:
        self._worker = worker
        self._post = post
        self._decoding = 0

    def decode(self, data: bytes, done: Callable[[InferRequest | ServingError], None]) -> None:
        """Read a ModelInferRequest, and its tensors too when it is large."""
        if len(data) <= LARGE_BYTES:
            done(attempt(lambda: decode_request(data)))
            return
        if self._decoding >= DECODING_MAX:
            done(Overloaded(f"{DECODING_MAX} large messages wait to be read; try again later", retry_after_ms=1_000))
            return
        self._decoding += 1

        def decoded(result: InferRequest | ServingError) -> None:
            self._decoding -= 1
            done(result)

        self._beside(lambda: with_arrays(decode_request(data)), decoded)

    def encode(
        self, answer: InferAnswer, encode: Callable[[InferAnswer], M], done: Callable[[M | ServingError], None]
    ) -> None:
        """Write an answer."""
        if sum(output.array.nbytes for output in answer.outputs) <= LARGE_BYTES:
            done(attempt(lambda: encode(answer)))
        else:
            self._beside(lambda: encode(answer), done)

    def _beside(self, work: Callable[[], T], done: Callable[[T | ServingError], None]) -> None:
        def run() -> None:
            result = attempt(work)
            self._post(lambda: done(result))

        self._worker.submit(run)


def attempt(work: Callable[[], T]) -> T | ServingError:
    """Do it, on any thread; what a message makes fail, such as a text that is not UTF-8, costs that request alone."""
    try:
        return work()
    except ServingError as error:
        return error
    except Exception:  # noqa: BLE001 - logged, and answered
        _log.exception("a message could not be read or written")
        return InternalError()
