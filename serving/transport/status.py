"""Errors as gRPC statuses: the one table."""

from collections.abc import Mapping

import grpc

from serving.errors import Code, Overloaded, ServingError

GRPC_CODES: Mapping[Code, grpc.StatusCode] = {code: grpc.StatusCode[code.name] for code in Code}

RETRY_PUSHBACK = "grpc-retry-pushback-ms"
"""The trailing metadata that gRPC's retry policy reads (gRFC A6)."""

Metadata = tuple[tuple[str, str], ...]


def trailing_metadata(error: ServingError) -> Metadata:
    """Return what travels beside the code and the message."""
    if isinstance(error, Overloaded):
        return ((RETRY_PUSHBACK, str(error.retry_after_ms)),)
    return ()
