"""Errors as gRPC statuses: the one table."""

import urllib.parse
from collections.abc import Mapping

import grpc

from serving.errors import Code, Overloaded, ServingError

GRPC_CODES: Mapping[Code, grpc.StatusCode] = {code: grpc.StatusCode[code.name] for code in Code}

RETRY_PUSHBACK = "grpc-retry-pushback-ms"
"""The trailing metadata that gRPC's retry policy reads (gRFC A6)."""

_DETAILS_BYTES_MAX = 4096  # clients take 8 KiB of trailers, and bytes that are not ASCII travel as three

Metadata = tuple[tuple[str, str], ...]


def details(error: ServingError) -> str:
    """Return the error's message, cut to what fits a trailer once it is percent-encoded."""
    text = error.message
    while len(urllib.parse.quote(text)) > _DETAILS_BYTES_MAX:
        text = text[: len(text) * 3 // 4]
    return text


def trailing_metadata(error: ServingError) -> Metadata:
    """Return what travels beside the code and the message."""
    if isinstance(error, Overloaded):
        return ((RETRY_PUSHBACK, str(error.retry_after_ms)),)
    return ()
