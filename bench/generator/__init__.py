"""The load generator: open and closed loops against a server that speaks gRPC, from a process of its own.

Read it in this order: `handle` (what the bench uses), `child` (the process behind it), `schedule` (when requests are
due), `links` (connections), `native` (the compiled client), `stock` (grpcio, the referee), `failures` (why a slice
ended before its time, in a person's words).
"""

from bench.generator.handle import Generator

__all__ = ["Generator"]
