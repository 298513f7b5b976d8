"""Penstock's runtime: from the bytes of a gRPC request to the rows of a batch and back.

Read the modules from the wire inwards: `transport` (bytes and sockets), `dataplane` (admit, find, validate, submit),
`batching` (which rows run together), `model` (gather, run, scatter), `execution` (onnxruntime). `repository` decides
which versions serve. `server` builds all of it; `commands` is what a person types.
"""

__version__ = "0.1.0"
