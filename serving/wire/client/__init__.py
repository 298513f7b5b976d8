"""The client's side of HTTP/2 and gRPC, compiled: many unary calls of one method, written and read in batches.

Read it in this order: `layout` (the state), `heads` (the bytes of a connection's opening and of a request's headers),
`tally` (what is counted when a call ends), `calls` (the calls of a connection), `control` (frames that concern a
connection), `answers` (header blocks and DATA of answers), `receive` and `send` (the kernels that a load generator
calls). It imports nothing here: a server must not compile what only a client needs.
"""
