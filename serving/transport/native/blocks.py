"""Errors as header blocks."""

import functools

from serving.errors import ServingError
from serving.transport.status import GRPC_CODES, Metadata, details, trailing_metadata
from serving.wire.answer_blocks import START, error


def error_block(answer: ServingError) -> bytes:
    """Return the one header block of an answer that is an error alone."""
    return _block(GRPC_CODES[answer.code].value[0], details(answer), trailing_metadata(answer))


def trailers_of(block: bytes) -> bytes:
    """Return the trailers in a block of `error_block`, for an answer that has begun."""
    return block.removeprefix(START)


@functools.lru_cache(maxsize=256)
def _block(code: int, message: str, metadata: Metadata) -> bytes:
    """Make a block; an overloaded server makes the same one again and again."""
    return error(code, message, [(name.encode(), value.encode()) for name, value in metadata])
