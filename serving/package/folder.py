"""A package as plain files and back: `model.onnx`, its weights, files of its pipeline, `package.json` and the others.

What is unpacked can be packed again, and gives the same digest. Files that a graph does not name and that are no part
of a package stay behind; `left_out` names them.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serving.errors import PackageError
from serving.package.contents import Contents, Source
from serving.package.manifest import Config, parse_config, parse_json
from serving.package.parts import JSON_BYTES_MAX, Part, check_title
from serving.package.reading import Package
from serving.package.writing import check_place
from serving.types import Signature

LICENCES = (Part.LICENCE.title, "LICENCE", "LICENSE", "LICENSE.txt")


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder to be packed. `config` is its `package.json`, None without one; `left_out` are files of no part."""

    path: Path
    weights: tuple[str, ...]
    config: Config | None
    left_out: tuple[str, ...]

    @classmethod
    def at(cls, path: Path) -> "Folder":
        """Look at a folder that holds model.onnx. Raises PackageError."""
        model = path / Part.MODEL.title
        if not model.is_file():
            raise PackageError(f"{path} holds no {Part.MODEL.title}; name the folder of one version of a model")
        known = {part.title for part in Part if part.title} | set(LICENCES)
        try:
            graph, others = model.read_bytes(), [name for name in files_beside(model) if name not in known]
        except OSError as error:
            raise PackageError(f"{path} cannot be read: {error.filename}: {error.strerror}") from None
        config = config_in(path)
        files = config.files if config is not None else ()
        weights = [name for name in named_in(graph, others) if name not in files]
        left_out = tuple(name for name in others if name not in {*weights, *files})
        return cls(path, tuple(weights), config, left_out)

    def with_config(self, config: Config) -> "Folder":
        """Return the folder as if it had this `package.json`."""
        unclaimed = [name for name in self.left_out if name not in config.files]
        weights = tuple(name for name in self.weights if name not in config.files)
        return replace(self, config=config, weights=weights, left_out=tuple(unclaimed))

    def contents(self, signature: Signature) -> Contents:
        """Return what a package of the folder holds; `signature` is what the graph itself says.

        Raises PackageError when `package.json` contradicts it, or is not there and was not given.
        """
        config = self.config
        if config is None:
            raise PackageError(f"{self.path} has no {Part.CONFIG.title}")
        check_same_tensors(config.signature, signature, where=f"{self.path}: {Part.CONFIG.title}")
        licence = next((text for file in LICENCES if (text := _read_text(self.path / file)) is not None), None)
        return Contents(
            name=config.name,
            model=self.path / Part.MODEL.title,
            signature=config.signature,
            weights={name: self.path / name for name in self.weights},
            columns=config.columns,
            labels=config.labels,
            profile=self._file(Part.PROFILE),
            golden=self._file(Part.GOLDEN),
            parity=self._json(Part.PARITY),
            evaluation=self._json(Part.EVALUATION),
            lineage=self._json(Part.LINEAGE),
            licence=None if licence is None else _decoded(self.path, licence),
            passes=config.passes,
            waivers=config.waivers,
            files={name: self._named_file(name) for name in config.files},
        )

    def _named_file(self, name: str) -> Source:
        """Return a file of a pipeline, which must lie within the folder also where links lead."""
        check_title(name, Part.FILE)
        try:
            path = (self.path / name).resolve(strict=True)
        except (OSError, RuntimeError):  # also links that lead round in a circle
            raise PackageError(f"{self.path / name} is not there, and the pipeline needs it") from None
        if not path.is_relative_to(self.path.resolve()) or not path.is_file():
            raise PackageError(f"{self.path / name} is no file within the folder, and the pipeline needs it")
        return path

    def _file(self, part: Part) -> Source | None:
        path = self.path / part.title
        return path if path.is_file() else None

    def _json(self, part: Part) -> dict[str, Any] | None:
        data = _read_text(self.path / part.title)
        return None if data is None else parse_json(str(self.path / part.title), data)


def config_in(folder: Path) -> Config | None:
    """Read the `package.json` of a plain folder, None without one. Raises PackageError."""
    data = _read_text(folder / Part.CONFIG.title)
    return None if data is None else parse_config(data)


def check_same_tensors(said: Signature, actual: Signature, *, where: str) -> None:
    """Refuse a signature whose tensors are not those of the graph, by name and datatype and in their order."""
    for role, one, other in (("inputs", said.inputs, actual.inputs), ("outputs", said.outputs, actual.outputs)):
        stated, found = ([f"{spec.name} {spec.datatype.wire_name}" for spec in specs] for specs in (one, other))
        if stated != found:
            raise PackageError(f"{where} says {role} {', '.join(stated)[:200]}, the graph has {', '.join(found)[:200]}")


def files_beside(graph: Path) -> list[str]:
    """Name the files that can hold a graph's external data: beside it, and one folder below."""
    folder = graph.parent
    files = [file for file in (*folder.glob("*"), *folder.glob("*/*")) if file.is_file() and file != graph]
    return sorted(str(file.relative_to(folder)) for file in files)


def named_in(graph: bytes, names: list[str]) -> list[str]:
    """Return the names that a graph mentions: only such a file can be its external data."""
    return [name for name in names if name.encode(errors="surrogateescape") in graph]


def unpack(package: Package, folder: Path) -> None:
    """Write the parts of a package as files into a new folder, verified, whole or not at all. Raises PackageError."""
    check_place(folder)
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        if os.path.lexists(folder):
            raise PackageError(f"{folder} is there already; name another place")
        draft.mkdir(parents=True)
        for blob in package.blobs:
            target = draft / blob.title
            target.parent.mkdir(exist_ok=True)
            _write_flushed(target, package.chunks(blob))
        draft.rename(folder)
    except OSError as error:
        raise PackageError(f"{folder} cannot be written: {error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_flushed(path: Path, chunks: Iterator[bytes]) -> None:
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _read_text(path: Path) -> bytes | None:
    """Return a file's bytes, None when there is none."""
    try:
        if not os.path.lexists(path):
            return None
        if not path.is_file():  # a pipe would be waited for
            raise PackageError(f"{path} is no plain file, nor a link to one; put one in its place, or take it away")
        with path.open("rb") as file:
            data = file.read(JSON_BYTES_MAX + 1)
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > JSON_BYTES_MAX:
        raise PackageError(f"{path} has more than {JSON_BYTES_MAX} bytes; this cannot be one")
    return data


def _decoded(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise PackageError(f"{path}: the licence is not valid UTF-8") from None
