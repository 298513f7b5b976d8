"""Bytes to rows and rows to bytes, compiled, without any I/O.

Read it in this order: `compiler` (where kernels are compiled and cached), `layout` (the state of connections and
streams), `octets`, `huffman`, `hpack_table`, `header_values`, `hpack` (header blocks), `frames`, `streams`, `messages`,
`connection`, `header_blocks`, `http2` (the decoder that a transport calls); then `protobuf`, `plan` (what the kernels
know of the models), `records` (the columns of a request), `arrivals` (events to records), `infer` (the scan of a
request), `rows` (its copy into a batch), `response` (answers); then `answer_blocks` (their headers, trailers and
errors), `settling` (answers that fit the windows), `unsent` (whose turn it is when they do not), `outbox` (what a
connection has to write). `kernels` loads all of it.

Every function works on (bytes, state arrays) and returns how far it came. Nothing here knows a socket, an event loop,
a protobuf message or a model; kernels never explain a refusal, they only name it by a number.
"""
