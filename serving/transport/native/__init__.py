"""The native transport: bytes to rows in compiled batches.

Read it in this order: `transport` (its parts), `turn`, `core`, `connection`, `events`, then the way of compiled
requests, `intake` and `group`, and that of all others, `messages`, `calls`, `ordinary`; `blocks` are errors as header
blocks, `watch` ends what takes too long.
"""
