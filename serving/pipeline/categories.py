"""The steps for categories: strings or numbers that stand for one of a few. Builders of drafts.

Strings are looked up by Python, into the places of their categories; what follows works on numbers and is compiled.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from serving.pipeline import elements, kernels
from serving.pipeline.compiler import readable, standalone, writable
from serving.pipeline.parameters import Parameters
from serving.pipeline.step import Argument, Draft, Element, Flow, Host, Kernel, as_it_is, one, rows_of, same
from serving.pipeline.tabular import INTEGERS, NUMBERS, columns
from serving.types import Array, Datatype

Look = Callable[[Sequence[Array], dict[int, str]], Sequence[Array]]
"""What a `Host` does."""


def one_hot(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Write 1 for the category that a value is, and 0 for the others, as FP32; `unknown` refuses, or is all 0."""
    is_ignored = parameters.text("unknown", "refuse", ("refuse", "ignore")) == "ignore"
    coded, categories, ends = _categories(parameters, reads[0], refuses=not is_ignored)
    width = int(ends[-1])
    work = Kernel(
        kernels.one_hot, (rows_of, as_it_is),
        (Argument(categories), Argument(ends), Argument(np.array([is_ignored], np.int64))),
        marks=True, explain=_first_unknown(categories, ends),
    )  # fmt: skip
    draft = Draft(work, (Datatype.FP32,), lambda _: ((width,),), "expected one of the categories")
    return draft if coded is None else _after_codes(coded, draft)


def ordinal(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Write which of the categories a value is, from 0, as INT64; `unknown` is an integer to write, or refuses."""
    unknown = np.zeros(2, np.int64)
    if parameters.has("unknown"):
        unknown[:] = 1, parameters.whole("unknown", minimum=-(1 << 31))
    coded, categories, ends = _categories(parameters, reads[0], refuses=not unknown[0])
    work = Kernel(
        kernels.ordinal, (rows_of, rows_of),
        (Argument(categories), Argument(ends), Argument(unknown)),
        marks=True, explain=_first_unknown(categories, ends),
    )  # fmt: skip
    draft = Draft(work, (Datatype.INT64,), same, "expected one of the categories")
    return draft if coded is None else _after_codes(coded, draft)


def hash_(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Write a bucket from 0 to `buckets` - 1, by MurmurHash3 of a string's UTF-8, or of an integer, as INT64."""
    buckets = parameters.whole("buckets")
    seed = parameters.whole("seed", 0, minimum=0, maximum=(1 << 32) - 1)
    given = reads[0].spec.datatype
    if given is Datatype.BYTES and not reads[0].spec.is_binary:
        return Draft(Host(_hash_texts(seed, buckets), is_quick=False), (Datatype.INT64,), same)
    if given not in INTEGERS:
        raise parameters.error(f"'{reads[0].spec.name}' is {given.wire_name}, expected BYTES or integers")
    work = Element(elements.hash_number, given, (one(seed, Datatype.INT64), one(buckets, Datatype.INT64)))
    return Draft(work, (Datatype.INT64,), same)


def _categories(parameters: Parameters, flow: Flow, *, refuses: bool) -> tuple[Look | None, Array, Any]:
    """Read the categories: how strings become codes, the categories of all columns in a row, and where each ends."""
    if flow.spec.datatype not in {Datatype.BYTES, *NUMBERS} or flow.spec.is_binary:
        kind = "binary" if flow.spec.is_binary else flow.spec.datatype.wire_name
        raise parameters.error(f"'{flow.spec.name}' is {kind}, expected numbers or text in BYTES")
    if len(flow.dims) > 1 or columns(flow) < 1:
        raise parameters.error(
            f"'{flow.spec.name}' has shape {list(flow.spec.shape)}, expected rows and a fixed number of columns"
        )
    lists = parameters.categories(columns(flow))
    ends = np.cumsum([0, *(len(items) for items in lists)])
    if flow.spec.datatype is Datatype.BYTES:
        if not all(isinstance(item, str) for items in lists for item in items):
            raise parameters.error(f"categories: '{flow.spec.name}' is BYTES, expected strings")
        tables = [{text: place for place, text in enumerate(items)} for items in lists]
        return _codes(tables, refuses=refuses), _places(lists), ends
    flat = _exactly([item for items in lists for item in items], flow.spec.datatype)
    if flat is None:
        raise parameters.error(f"categories: expected values that fit {flow.spec.datatype.wire_name}")
    if any(len(np.unique(flat[begin:end])) < end - begin for begin, end in pairwise(ends.tolist())):
        raise parameters.error(f"categories: two values are the same in {flow.spec.datatype.wire_name}")
    return None, flat, ends


def _exactly(values: Sequence[Any], datatype: Datatype) -> Array | None:
    """Return values as an array of a datatype; None when one of them has no place in it."""
    if not all(type(item) in {int, float, bool} for item in values):
        return None
    try:
        given: Array = np.array(values)
        with np.errstate(all="ignore"):
            array: Array = given.astype(datatype.dtype)
        is_exact = bool((array == given).all())
    except (OverflowError, TypeError):
        return None
    is_rounded = datatype is Datatype.FP32 and bool(np.isfinite(array.astype(np.float64)).all())
    return array if is_exact or is_rounded else None


def _places(lists: Sequence[Sequence[str]]) -> Array:
    return np.concatenate([np.arange(len(items), dtype=np.int64) for items in lists])


def _codes(tables: Sequence[dict[str, int]], *, refuses: bool) -> Look:
    """Return what turns strings [rows, columns] into their places among the categories, -1 for unknown ones."""

    def look_up(arrays: Sequence[Array], reasons: dict[int, str]) -> Sequence[Array]:
        texts = arrays[0].reshape(len(arrays[0]), len(tables))
        codes = np.empty(texts.shape, np.int64)
        for column, table in enumerate(tables):
            codes[:, column] = [table.get(text, -1) for text in texts[:, column].tolist()]
        if refuses:
            for row, column in np.argwhere(codes < 0).tolist():
                came = f"{_short(texts[row, column])} came in column {column}"
                reasons.setdefault(row, f"{came}, expected one of the categories")
        return [codes.reshape(arrays[0].shape)]

    return look_up


def _first_unknown(categories: Array, ends: Any) -> Callable[[Array], str]:
    """Return what says which value of a row is in no category."""

    def explain(row: Array) -> str:
        for column, value in enumerate(row.reshape(-1)):
            if value not in categories[ends[column] : ends[column + 1]]:
                return f"{value} came in column {column}"
        return "an unknown value came"

    return explain


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")


def _after_codes(coded: Look, draft: Draft) -> Draft:
    return Draft(Host(coded), (Datatype.INT64,), same, then=draft)


def _hash_texts(seed: int, buckets: int) -> Look:
    octets_type, ends_type = readable(np.dtype(np.uint8), 1), readable(np.dtype(np.int64), 1)
    hashes = standalone(kernels.murmur3, (octets_type, ends_type, writable(np.dtype(np.int64), 1), ends_type))
    settings = np.array([seed, buckets], np.int64)

    def hash_all(arrays: Sequence[Array], _reasons: dict[int, str]) -> Sequence[Array]:
        texts = [text.encode() for text in arrays[0].reshape(-1).tolist()]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        out = np.empty(arrays[0].shape, np.int64)
        hashes(np.frombuffer(b"".join(texts), np.uint8), ends, out.reshape(-1), settings)
        return [out]

    return hash_all
