"""Bytes to rows and rows to bytes, compiled, without any I/O.

Read it in this order: `compiler` (where kernels are compiled and cached), `huffman`, `hpack_table`, `hpack` (header
blocks), `layout` (the state of connections and streams), `frames`, `streams`, `http2` (the decoder a transport calls),
`protobuf`, `plan`, `infer` (requests), `response` (answers).

Every function works on (bytes, state arrays) and returns how far it came. Nothing here knows a socket, an event loop,
a protobuf message or a model; kernels never explain a refusal, they only name it by a number.
"""
