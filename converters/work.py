"""What `penstock convert` does: load, convert, report, write the package."""

from dataclasses import replace
from pathlib import Path

from converters.command import Place, write_json
from converters.conversion import Conversion, convert
from converters.draft import Kind
from converters.lineage import digest_of_file, lineage_of
from converters.loading import Loaded, check_plain, load_model
from converters.packaging import Label, write_package
from converters.parity.gate import Settings
from converters.parity.report import ParityError, ParityReport
from converters.passes import check_names
from converters.report import page, terminal
from converters.report.summary import Facts
from converters.sample import ROWS_MAX, Sample
from serving.errors import ConfigError
from serving.tables.whole import read_whole

LICENCE_BYTES_MAX = 1 << 20


def work(  # noqa: PLR0913 - the options of the command
    *, model: str, sample: Path, place: Place, passes: tuple[str, ...], recommend: bool, waivers: dict[str, str],
    kind: Kind | None, batch_rows_max: int, seed: int, licence: Path | None, html_file: Path | None,
    json_file: Path | None,
) -> None:  # fmt: skip
    """Run the command. Raises ConfigError; when parity fails, the report is shown and written before."""
    check_names(passes)
    text = _licence(licence)
    if html_file is not None:
        page.check_place(html_file)
    settings = Settings(waivers=waivers, batch_rows_max=batch_rows_max, seed=seed)
    with terminal.progress() as progress:
        progress(f"load {model}")
        loaded = load_model(model)
        rows = Sample.of(read_whole(sample, rows_max=ROWS_MAX))
        try:
            done = convert(
                loaded.model, rows, passes=passes, recommend=recommend, kind=kind, settings=settings, progress=progress
            )
        except ParityError as error:
            _report(
                Facts(place.name, (("sample", f"{sample} ({rows.rows:,} rows)"),), error.report), html_file, json_file
            )
            raise
        _check_waivers(done.report, waivers)
        progress(f"write {place.path}")
        digest = write_package(done, _label(done, place, loaded, seed, text), place.path)
    facts = Facts(place.name, tuple(_lines(done, sample, rows, place, digest)), _with_notes(done, loaded), done.trials)
    _report(facts, html_file, json_file)


def _label(done: Conversion, place: Place, loaded: Loaded, seed: int, licence: str | None) -> Label:
    lineage = lineage_of(done, model_digest=loaded.digest, seed=seed, folder=loaded.folder)
    return Label(place.name, licence, lineage=lineage)


def _with_notes(done: Conversion, loaded: Loaded) -> ParityReport:
    return replace(done.report, notes=done.report.notes + loaded.notes)


def _report(facts: Facts, html_file: Path | None, json_file: Path | None) -> None:
    if json_file is None or str(json_file) != "-":
        terminal.show(facts)
    if html_file is not None:
        page.write(html_file, facts)
    write_json(json_file, facts.to_json())


def _lines(done: Conversion, sample: Path, rows: Sample, place: Place, digest: str) -> list[tuple[str, str]]:
    signature = done.signature
    tensors = [
        ", ".join(f"{spec.name} {spec.datatype.wire_name} {_shape(spec.shape)}" for spec in specs)
        for specs in (signature.inputs, signature.outputs)
    ]
    worst, precise = done.report.largest()
    return [
        ("package", f"{place.path} ({digest})"),
        ("framework", done.framework),
        ("graph", f"{len(done.graph) / 1024:,.1f} KiB for onnxruntime {done.target.onnxruntime} and later"),
        ("takes", tensors[0]),
        ("gives", tensors[1]),
        ("sample", f"{sample} ({rows.rows:,} rows, {digest_of_file(sample)})"),
        ("largest error on it", f"{worst:.2g} of conversion, {precise:.2g} of precision"),
        *([("passes", ", ".join(done.passes))] if done.passes else []),
    ]


def _shape(shape: tuple[int, ...]) -> str:
    inner = (str(d) if d >= 0 else "?" for d in shape[1:])
    return f"[{', '.join(('rows', *inner))}]" if shape else "[]"


def _check_waivers(report: ParityReport, waivers: dict[str, str]) -> None:
    """Refuse a waiver for a check that does not exist: it was meant for another one."""
    known = [check.name for check in report.checks]
    for name in waivers:
        if name not in known:
            raise ConfigError(f"--waive {name}: no check has this name; they are {', '.join(known)}")


def _licence(path: Path | None) -> str | None:
    if path is None:
        return None
    check_plain(path, "--licence")
    try:
        with path.open("rb") as file:
            data = file.read(LICENCE_BYTES_MAX + 1)
        if len(data) > LICENCE_BYTES_MAX:
            raise ConfigError(f"--licence {path} has more than {LICENCE_BYTES_MAX} bytes, expected at most so many")
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--licence {path} is no text that can be read: {error}") from None
