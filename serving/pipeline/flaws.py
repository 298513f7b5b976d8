"""Rows that a step cannot take. They cost the requests that sent them, and no batchmate. Pure."""

from collections.abc import Mapping


class RefusedRowsError(Exception):
    """Some rows of a batch hold values that a step cannot take; the others were not looked at any further.

    `reasons` says of each such row what came, what was expected and where, without the row's number: whoever knows the
    requests numbers rows as their senders do.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(f"{len(reasons)} rows were refused")
        self.reasons = reasons
