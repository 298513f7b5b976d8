"""`penstock pack`, `penstock unpack` and `penstock inspect`: packages and plain folders, one made of the other."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from serving.commands.options import json_option, show
from serving.config import load_model_config
from serving.errors import ConfigError, PackageError, printable
from serving.package import Golden, Package, Part, export, read, verify, write
from serving.package.contents import Contents, Source
from serving.package.folder import Folder, unpack
from serving.package.manifest import Config
from serving.package.signing import read_signatures, signer, trusted_key
from serving.pipeline.files import files_named
from serving.repository.scanner import CONFIG_FILE, is_version
from serving.scoring.opened import is_package, open_model
from serving.statistics.profile import ReferenceProfile
from serving.types import TensorSpec

_PATH = click.Path(path_type=Path)
_KEY = click.Path(path_type=Path, dir_okay=False)
_NAMES_SHOWN = 8
_ENTRIES_SHOWN = 30
_LINE_CHARACTERS = 160

_PACK_EXAMPLES = """\b
Examples:
  penstock pack models/fraud/1 --out fraud.tar
  openssl genpkey -algorithm ed25519 -out release.key
  penstock pack models/fraud/1 --out fraud.tar --sign-key release.key
"""
"""The first character tells click to keep the lines."""


@click.command("pack", epilog=_PACK_EXAMPLES)
@click.argument("source", metavar="DIR/NAME/VERSION", type=_PATH)
@click.option(
    "--out", required=True, type=_PATH, metavar="PACKAGE", help="The folder to write, or a file ending in .tar."
)
@click.option("--name", default="", metavar="NAME", help="The model's name; without it, NAME of the path.")
@click.option("--sign-key", type=_KEY, metavar="FILE", help="Sign with this private key (PEM, ed25519, no passphrase).")
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="NAME",
    help="A file of the folder that a step of a pipeline needs; what DIR/NAME/model.toml names comes too.",
)
@json_option
def pack(
    source: Path, out: Path, name: str, sign_key: Path | None, files: tuple[str, ...], json_file: Path | None
) -> None:
    """Make a package of the folder of a version, or a copy of a package, signed if a key is given.

    The folder holds model.onnx and its weights and, where they are there, package.json, profile.npz, golden.npz,
    parity.json, evaluation.json, lineage.json and LICENCE.txt, and the files that the steps of its pipeline need. The
    same folder, with the same files needed, always gives the same digest.
    """
    sign = signer(sign_key) if sign_key else None
    if is_package(source):
        if name:
            raise click.UsageError("--name renames nothing: the package of a model keeps its name")
        if files:
            raise click.UsageError("--file adds nothing: a package does not change")
        digest = export(read(source), out, sign=sign)
    else:
        digest = write(_contents(source, name, files), out, sign=sign)
    show(f"{digest}\n{out}", {"digest": digest, "path": str(out)}, json_file)


@click.command("unpack")
@click.argument("package", metavar="PACKAGE", type=_PATH)
@click.option("--out", required=True, type=_PATH, metavar="DIR", help="The folder to write; it must not be there yet.")
@json_option
def unpack_command(package: Path, out: Path, json_file: Path | None) -> None:
    """Write the parts of a package as plain files, verified. Packed again they give the same digest."""
    opened = read(package)
    unpack(opened, out)
    files = sorted(blob.title for blob in opened.blobs)
    show("\n".join(str(out / file) for file in files), {"digest": opened.digest, "files": files}, json_file)


@click.command("inspect")
@click.argument("package", metavar="PACKAGE", type=_PATH)
@click.option("--verify-key", type=_KEY, metavar="FILE", help="Fail unless this public key (PEM, ed25519) signed it.")
@json_option
def inspect(package: Path, verify_key: Path | None, json_file: Path | None) -> None:
    """Verify a package, every byte of it, and show what it holds."""
    opened = verify(package)
    signed_by = [signature.key_id for signature in read_signatures(opened)]
    verified = trusted_key(verify_key).check(opened) if verify_key else None
    value = _described(opened) | {"signed_by": signed_by, "verified_key": verified}
    show("\n".join(map(printable, _lines(opened, signed_by, verified))), value, json_file)


def _contents(source: Path, name: str, files: tuple[str, ...]) -> Contents:
    folder = Folder.at(source)
    model = open_model(source)
    config = folder.config
    if config is None:
        config = Config(name or _name(source), model.signature, model.columns, model.labels, model.passes, ())
    elif name and name != config.name:
        raise ConfigError(f"{source}: {Part.CONFIG.title} calls the model '{config.name}', --name says '{name}'")
    needed = sorted({*config.files, *files, *_files_named_beside(source)})
    folder = folder.with_config(replace(config, files=tuple(needed)))
    for file in folder.left_out:
        click.echo(f"penstock: {source / file} is no part of a package and is left out", err=True)
    contents = folder.contents(model.signature)
    _check_arrays(contents.profile, ReferenceProfile.from_bytes)
    _check_arrays(contents.golden, Golden.from_bytes)
    return contents


def _files_named_beside(source: Path) -> tuple[str, ...]:
    """Return the files that the pipeline of the model names, when the folder is a version in a model repository."""
    path = source.absolute()
    return files_named(load_model_config(path.parent / CONFIG_FILE).pipeline) if is_version(path.name) else ()


def _check_arrays(file: Source | None, read_arrays: Callable[[bytes], object]) -> None:
    """Refuse a file that no server can read: it would serve without, and a package does not change any more."""
    if not isinstance(file, Path):
        return
    try:
        read_arrays(file.read_bytes())
    except (ConfigError, PackageError) as error:
        raise ConfigError(f"{file}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None


def _name(source: Path) -> str:
    """Return NAME of a path DIR/NAME/VERSION, or the last part of another path."""
    path = source.absolute()
    return path.parent.name if is_version(path.name) else path.name


def _described(package: Package) -> dict[str, Any]:
    return {
        "path": str(package.path),
        "digest": package.digest,
        "name": package.name,
        "signature": {
            "batchable": package.signature.batchable,
            "inputs": [_spec(spec, package.columns) for spec in package.signature.inputs],
            "outputs": [_spec(spec, package.labels) for spec in package.signature.outputs],
        },
        "passes": list(package.passes),
        "waivers": [{"check": waiver.check, "reason": waiver.reason} for waiver in package.waivers],
        "blobs": [
            {"title": blob.title, "media_type": blob.media_type, "digest": blob.digest, "bytes": blob.bytes_count}
            for blob in package.blobs
        ],
        "parity": package.parity,
        "evaluation": package.evaluation,
        "lineage": package.lineage,
        "licence": package.licence,
    }


def _spec(spec: TensorSpec, names: Any) -> dict[str, Any]:
    value = {"name": spec.name, "datatype": spec.datatype.wire_name, "shape": list(spec.shape)}
    return value | ({"names": list(names[spec.name])} if spec.name in names else {})


def _lines(package: Package, signed_by: list[str], verified: str | None) -> Iterator[str]:
    yield f"package    {package.digest}"
    yield f"model      {package.name}{'' if package.signature.batchable else ', not batchable'}"
    for role, specs, names in (("input", package.signature.inputs, package.columns),
                               ("output", package.signature.outputs, package.labels)):  # fmt: skip
        for spec in specs:
            shown = _shown(names.get(spec.name, ()))
            yield f"{role:<10} {spec.name} {spec.datatype.wire_name} {list(spec.shape)}{shown}"
    yield f"passes     {', '.join(package.passes) or 'none'}"
    for waiver in package.waivers:
        yield f"waiver     {waiver.check}: {waiver.reason}"
    for key_id in signed_by:
        yield f"signed by  {key_id[:16]}{', verified' if key_id == verified else ''}"
    if not signed_by:
        yield "signed by  nobody"
    for blob in package.blobs:
        yield f"blob       {blob.digest} {blob.bytes_count:>12,} {blob.title}"
    for title, value in (("parity", package.parity), ("evaluation", package.evaluation), ("lineage", package.lineage)):
        if value is not None:
            yield f"{title}:"
            yield from _json_lines(value)
    if package.licence:
        yield f"licence    {package.licence.strip().splitlines()[0] if package.licence.strip() else ''}"


def _json_lines(value: dict[str, Any], indent: str = "  ") -> Iterator[str]:
    """Yield a document for people: objects indented, a list of objects as a line each with what is plain in it."""
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield f"{indent}{key}:"
            yield from _json_lines(item, f"{indent}  ")
        elif isinstance(item, list) and item and all(isinstance(entry, dict) for entry in item):
            yield f"{indent}{key}:"
            yield from (_cut(f"{indent}  {_plain(entry)}") for entry in item[:_ENTRIES_SHOWN])
            if len(item) > _ENTRIES_SHOWN:
                yield f"{indent}  ... {len(item)} in all; --json FILE has them"
        else:
            yield _cut(f"{indent}{key}: {item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)}")


def _plain(entry: dict[str, Any]) -> str:
    """Write what in an object is neither empty nor an object or a list: its name first, the longest text last."""
    plain = {
        key: str(item) for key, item in entry.items() if not isinstance(item, dict | list) and item not in {"", None}
    }
    return ", ".join(f"{key} {plain[key]}" for key in sorted(plain, key=lambda key: (key != "name", len(plain[key]))))


def _cut(line: str) -> str:
    return line if len(line) <= _LINE_CHARACTERS else line[:_LINE_CHARACTERS] + "..."


def _shown(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    more = f", ... {len(names)} in all" if len(names) > _NAMES_SHOWN else ""
    return f" ({', '.join(names[:_NAMES_SHOWN])}{more})"
