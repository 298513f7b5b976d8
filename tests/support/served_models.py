"""Asking the real server about a converted model, and holding its answers to the framework's own.

`python -m tests.support.served_models FOLDER` does so for every heavy framework that is installed: it converts, serves
in a process of its own, compares, and prints a line per model.
"""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from converters.conversion import Conversion, convert
from converters.matrix import others
from converters.packaging import Label, write_package
from converters.parity.errors import compare
from converters.runner import Runner, quiet, rows_of
from serving.transport.client import Client

ROWS = 64


def compare_served(address: str, name: str, conversion: Conversion) -> None:
    """Send rows of the sample over gRPC. Raises AssertionError when an answer is beyond the model's tolerance."""
    exact = rows_of(conversion.draft.exact, slice(0, ROWS))
    cast = Runner(conversion.graph).cast(exact)
    kinds = {spec.name: spec.datatype for spec in conversion.signature.inputs}
    with Client(address) as client:
        _, got = client.infer(name, {key: (kinds[key], item) for key, item in cast.items()})
    with quiet():
        answers = [conversion.draft.answer(cast), conversion.draft.answer(exact)]
    found = [
        compare(expected, got, outputs=conversion.draft.outputs, tolerance=conversion.report.tolerance, scales={})
        for expected in answers
    ]
    beyond = np.logical_and(*(item.beyond for item in found))
    flipped = np.logical_and(*(item.flipped for item in found))
    told = ", ".join(f"{error.output} {error.largest:.3g}" for error in found[0].errors)
    assert not beyond.any(), f"{name}: {int(beyond.sum())} rows beyond tolerance over gRPC ({told})"
    assert not flipped.any(), f"{name}: {int(flipped.sum())} other labels over gRPC"


def main(models: Path) -> None:
    """Convert, serve and compare the models of heavy frameworks."""
    done: dict[str, tuple[str, Conversion]] = {}
    for number, entry in enumerate(others.entries()):
        model, rows = entry.make()
        conversion = convert(model, rows)
        name = f"model_{number}"
        write_package(conversion, Label(name), models / name / "1")
        done[name] = (entry.id, conversion)
    with _server(models) as address:
        for name, (told, conversion) in done.items():
            compare_served(address, name, conversion)
            sys.stdout.write(f"{told}\n")


@contextlib.contextmanager
def _server(models: Path) -> Iterator[str]:
    """Run a server as a process of its own; yield its address when all is loaded."""
    command = [
        sys.executable,
        "-m",
        "serving",
        "serve",
        "--models",
        str(models),
        "--grpc-port",
        "0",
        "--http-port",
        "0",
    ]
    command += ["--transport", "grpcio"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None, "bug: the server's log is not piped"
        address = ""
        try:
            for line in process.stderr:
                if match := re.search(r"listening: grpc (\S+)", line):
                    address = match[1]
                if re.search(r"serving \d+ model versions", line):
                    break
            yield address
        finally:
            process.terminate()
            process.communicate()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
