"""The command line without a process of its own."""

import sys

import pytest

from serving.__main__ import main


def run(*arguments: str) -> int:
    """Run `penstock ARGUMENTS` in this process; return its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["penstock", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
    return caught.value.code or 0
