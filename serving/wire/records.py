"""The columns of a decoded request, from the message on the wire to its answer.

A record is one row of an int64 matrix. `arrivals` makes one of each event that brings a complete message: whose it is,
and where it lies. `infer` fills in the rest. When its rows are taken into a batch, `rows` copies the first
REQUEST_COLUMNS to a row of the batch's own matrix, and there `response` finds what it needs for the answer.
"""

INPUTS_MAX = 32
OUTPUTS_MAX = 16
"""Models with more inputs or outputs are served on the ordinary path."""
ID_BYTES_MAX = 64
"""Requests with a longer id are served on the ordinary path."""

(
    R_CONNECTION,
    R_STREAM,
    R_STREAM_GENERATION,
    R_DEADLINE_NS,
    R_VERDICT,  # ORDINARY or ACCEPTED; the columns from here on mean something only when accepted
    R_SLOT,  # which servable of the plan
    R_ROWS,
    R_ROW,  # where the first one lies in the arena, once taken
    R_ID_AT,  # in the buffer of the message, and once taken in the bytes of ids
    R_ID_LENGTH,
    R_OUTPUT_COUNT,
    R_OUTPUT,  # so many positions of outputs in the signature, in the asked order
) = range(12)
REQUEST_COLUMNS = R_OUTPUT + OUTPUTS_MAX

# What nobody needs any more once the request is in a batch.
(
    R_SOURCE,  # in which buffer the message lies: one of layout.SOURCE_*, or SOURCE_NONE
    R_AT,  # where it begins there, behind gRPC's prefix
    R_LENGTH,
) = range(REQUEST_COLUMNS, REQUEST_COLUMNS + 3)
R_INPUT = REQUEST_COLUMNS + 3  # per input of the signature: where its raw contents begin in the buffer
R_ORDER = R_INPUT + INPUTS_MAX  # per input of the message: its position in the signature
R_TEXT = R_ORDER + INPUTS_MAX  # begin and end of model_name, model_version and id
R_INPUTS_FOUND = R_TEXT + 6
R_CONTENTS_FOUND = R_INPUTS_FOUND + 1
R_OUTPUTS_FOUND = R_INPUTS_FOUND + 2
RECORD_COLUMNS = R_INPUTS_FOUND + 3

ORDINARY, ACCEPTED = range(2)
SOURCE_NONE = -1
