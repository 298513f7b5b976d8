"""Why a slice ended before its time, in a person's words: what happened, where, and what to do. Knows no socket."""

import ssl

from bench.slices import INTERRUPTED, Target
from serving.wire.client.layout import BREACHES

GOAWAY_CODES = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
    "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)  # fmt: skip


class SliceFailed(Exception):
    """A slice cannot go on; the message is for the person who asked for it."""


class SliceStopped(SliceFailed):
    """The bench has something to say while a slice runs, or is gone: the slice is to end, and is no failure."""

    def __init__(self) -> None:
        super().__init__(INTERRUPTED)


def address_of(target: Target) -> str:
    """Return HOST:PORT, an IPv6 address in brackets."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{host}:{target.port}"


def not_connected(target: Target, error: OSError) -> SliceFailed:
    """Say why there is no connection."""
    address = address_of(target)
    if isinstance(error, ssl.SSLCertVerificationError):
        return SliceFailed(
            f"the certificate of {address} is not to be trusted ({error.verify_message}); "
            "name the PEM file of its CA with --tls-ca, and the server by a name that the certificate holds"
        )
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return SliceFailed(
            f"{address} answers without TLS; leave out --tls and its kin, or name the port that speaks it"
        )
    if isinstance(error, ssl.SSLError):
        return SliceFailed(
            f"no TLS with {address} ({error.reason or error}); if it asks for a client certificate, "
            "give --tls-cert FILE --tls-key FILE"
        )
    reason = error.strerror or str(error) or type(error).__name__
    return SliceFailed(f"cannot connect to {address} ({reason}); is the server running, and is this its gRPC port?")


def not_greeted(target: Target) -> SliceFailed:
    """Say that a server took the connection and closed it, or said nothing on it."""
    address = address_of(target)
    if target.tls:
        return SliceFailed(
            f"{address} closed the connection at once; if it asks for a client certificate, "
            "give --tls-cert FILE --tls-key FILE of a CA that it trusts"
        )
    return SliceFailed(f"{address} closed the connection at once; if it speaks TLS, add --tls-ca FILE, or --tls")


def not_answering(target: Target, timeout_s: float) -> SliceFailed:
    """Say that a server took the connection and said nothing."""
    return SliceFailed(
        f"{address_of(target)} took the connection and said nothing for {timeout_s:g} s; is this its gRPC port?"
    )


def no_http2(target: Target) -> SliceFailed:
    """Say that TLS was agreed upon and HTTP/2 was not."""
    return SliceFailed(f"{address_of(target)} speaks TLS and does not offer HTTP/2 (ALPN h2); is this its gRPC port?")


def closed(target: Target, at_s: float, reason: str | None = None) -> SliceFailed:
    """Say that a server left in the midst of a slice."""
    how = f" ({reason})" if reason else ""
    return SliceFailed(f"the server at {address_of(target)} closed the connection {_when(at_s)}{how}; see its log")


def goaway(target: Target, at_s: float, code: int, text: bytes) -> SliceFailed:
    """Say that a server ended a connection in the way of HTTP/2."""
    name = GOAWAY_CODES[code] if code < len(GOAWAY_CODES) else str(code)
    said = f", {text.decode(errors='replace')!r}" if text else ""
    return SliceFailed(f"the server at {address_of(target)} ended the connection {_when(at_s)}: GOAWAY {name}{said}")


def breach(target: Target, at_s: float, number: int) -> SliceFailed:
    """Say what a server did that HTTP/2 forbids."""
    return SliceFailed(
        f"the server at {address_of(target)} {BREACHES[number]} {_when(at_s)}; is this the port of a gRPC server?"
    )


def _when(at_s: float) -> str:
    return f"{at_s:.2f} s after the first counted moment" if at_s >= 0 else "before the first counted moment"
