"""What the kernels know of the models: one table of numbers and one of text for everything that serves.

The plan of a server is built anew whenever what serves changes, and replaced in one step; a slot is a position in the
list that it was built from, so a batch keeps the plan by which its requests were decoded until it is settled. It knows
signatures and no wire format but the fields of an answer that never change, which are encoded here once.

`numbers` begins with a header; then come a hash table of model names, the directory of slots, and for each servable its
entry (S_*), its inputs and its outputs (T_*). A "position" is an index into `numbers`, never 0.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.types import DYNAMIC, Datatype, Signature, TensorSpec
from serving.wire.compiler import int64, part
from serving.wire.octets import HASH_PRIME, HASH_START, equal, hash_of
from serving.wire.protobuf import encoded_text
from serving.wire.records import INPUTS_MAX, OUTPUTS_MAX

RANK_MAX = 8
ROW_BYTES_MAX = 2**32

N_BUCKETS, N_SLOTS, N_TABLE = range(3)  # the header: counts, the first a power of two; then buckets, then directory

(
    S_NEXT,  # the position of the next servable in the same bucket, 0 for none
    S_SLOT,
    S_NAME,  # text: begin and length take two words
    _,
    S_VERSION,
    _,
    S_HEAD,  # text: the fields model_name and model_version of its answers
    _,
    S_NEWEST,  # 1 for the version that a request without one means
    S_COMPILED,  # 0 when its requests always take the ordinary path
    S_BATCHABLE,
    S_ROWS_MAX,
    S_ROW_BYTES,  # of all inputs together
    S_INPUTS,  # position and count
    S_INPUT_COUNT,
    S_OUTPUTS,
    S_OUTPUT_COUNT,
    S_WORDS,
) = range(18)

(
    T_NAME,
    _,
    T_DATATYPE,
    _,
    T_HEAD,  # text: the fields name and datatype of an output in an answer
    _,
    T_RANK,
    T_ROW_BYTES,  # of one row of an input; 0 for an output whose elements have no fixed length
    T_BYTES_BEFORE,  # row bytes of the inputs before this one
    T_BOOL,
    T_DIMS,
) = range(11)
T_WORDS = T_DIMS + RANK_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One ready servable, as the plan needs to know it.

    `rows_max` is what one request may hold. Without a place for its rows its requests are not decoded. No request names
    one that is not `is_named`: those that it shall answer are handed to its slot, see `routes`.
    """

    name: str
    version: int
    signature: Signature
    rows_max: int
    has_place: bool = True
    is_named: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """The tables. Immutable after they are built; any thread may read them.

    What `rows.take_rows` takes for an arena of a slot are bytes that hold a capacity of rows. The inputs lie one behind
    the other, in the order of the signature: each is an array [capacity, ...] in C order that begins at capacity *
    T_BYTES_BEFORE, the bytes of one row of all inputs before it. So the arena's length is capacity * S_ROW_BYTES, the
    bytes of one row of all inputs.
    """

    models: tuple[Model, ...]
    numbers: NDArray[np.int64]
    text: NDArray[np.uint8]

    def is_compiled(self, slot: int) -> bool:
        """Say whether requests for this servable can be decoded here at all."""
        model = self.models[slot]
        return model.has_place and is_compiled(model.signature)


def is_compiled(signature: Signature) -> bool:
    """Say whether requests of this signature fit the kernels: fixed-size elements and no open dimension but rows."""
    names = [spec.name for spec in signature.inputs], [spec.name for spec in signature.outputs]
    if any(len(set(group)) < len(group) for group in names):
        return False
    if not 0 < len(signature.inputs) <= INPUTS_MAX or len(signature.outputs) > OUTPUTS_MAX:
        return False
    return all(_is_fixed(spec, signature) for spec in signature.inputs)


def build(models: Sequence[Model]) -> Plan:
    """Build the plan of `models`; the slot of each is its index. Versions of a model may come in any order.

    A servable that does not fit the kernels has an entry all the same, so that no other version stands in for it.
    """
    return _Builder(models).plan()


class _Builder:
    """Collects words and text. Lives for one call of `build`."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = tuple(models)
        buckets = 1 << max(3, len(models).bit_length())
        self._numbers = [buckets, len(models)] + [0] * (buckets + len(models))
        self._text = bytearray()
        self._places: dict[bytes, int] = {}

    def plan(self) -> Plan:
        newest: dict[str, int] = {}
        for model in self._models:
            if model.is_named:
                newest[model.name] = max(model.version, newest.get(model.name, 0))
        for slot, model in enumerate(self._models):
            self._add(slot, model, is_newest=newest.get(model.name) == model.version)
        text = np.frombuffer(bytes(self._text) or b"\0", np.uint8).copy()
        return Plan(self._models, np.array(self._numbers, np.int64), text)

    def _add(self, slot: int, model: Model, *, is_newest: bool) -> None:
        name, version = model.name.encode(errors="replace"), str(model.version).encode()
        at, following = len(self._numbers), 0
        if (
            model.is_named and name.decode() == model.name
        ):  # a folder's name may be no UTF-8, and then no client can ask for it
            bucket = N_TABLE + _hash(name) % self._numbers[N_BUCKETS]
            following, self._numbers[bucket] = self._numbers[bucket], at
        self._numbers[N_TABLE + self._numbers[N_BUCKETS] + slot] = at
        self._numbers += [0] * S_WORDS
        fits = model.has_place and is_compiled(model.signature)
        signature = model.signature if fits else Signature((), (), batchable=False)
        self._numbers[at : at + S_WORDS] = [
            *(following, slot, *self._put(name), *self._put(version)),
            *self._put(encoded_text(1, name) + encoded_text(2, version)),
            *(is_newest, fits, signature.batchable, model.rows_max if signature.batchable else 1),
            sum(_row_bytes(spec, signature) for spec in signature.inputs),
            *self._tensors(signature.inputs, signature),
            *self._tensors(signature.outputs, signature),
        ]

    def _tensors(self, specs: Iterable[TensorSpec], signature: Signature) -> tuple[int, int]:
        """Append the words of tensors; returns their position and their count."""
        first, count, bytes_before = len(self._numbers), 0, 0
        for spec in specs:
            name, datatype = spec.name.encode(), spec.datatype.wire_name.encode()
            row_bytes = _row_bytes(spec, signature)
            dims = spec.shape[:RANK_MAX]
            self._numbers += [*self._put(name), *self._put(datatype)]
            self._numbers += self._put(encoded_text(1, name) + encoded_text(2, datatype))
            self._numbers += [len(spec.shape), row_bytes, bytes_before, spec.datatype is Datatype.BOOL]
            self._numbers += [*dims, *[0] * (RANK_MAX - len(dims))]
            bytes_before += row_bytes
            count += 1
        return first, count

    def _put(self, text: bytes) -> tuple[int, int]:
        """Keep a text once; returns where it begins and how long it is."""
        if text not in self._places:
            self._places[text] = len(self._text)
            self._text += text
        return self._places[text], len(text)


def _is_fixed(spec: TensorSpec, signature: Signature) -> bool:
    dims = spec.shape[1:] if signature.batchable else spec.shape
    if len(spec.shape) > RANK_MAX or any(dimension < 1 for dimension in dims):
        return False
    return 0 < _row_bytes(spec, signature) <= ROW_BYTES_MAX


def _row_bytes(spec: TensorSpec, signature: Signature) -> int:
    """Return the bytes of one row, 0 for BYTES; open dimensions, which only outputs have, count as 1."""
    elements = 1
    for dimension in spec.shape[1:] if signature.batchable else spec.shape:
        elements *= 1 if dimension == DYNAMIC else dimension
    return elements * spec.datatype.item_bytes


def _hash(name: bytes) -> int:
    """Hash a name as `hash_of` does, without compiling anything outside a kernel."""
    state = HASH_START
    for byte in name:
        state = (state ^ byte) * HASH_PRIME % 2**64
    return state >> 1


@part
def entry_of(numbers: NDArray[np.int64], slot: int) -> int:
    """Return the position of a slot's servable."""
    return int64(numbers[N_TABLE + numbers[N_BUCKETS] + slot])


@part
def is_text_of(
    numbers: NDArray[np.int64], text: NDArray[np.uint8], word: int, buffer: NDArray[np.uint8], at: int, end: int
) -> bool:
    """Compare buffer[at:end] with the text that `numbers[word]` and the word after it point to."""
    return numbers[word + 1] == end - at and equal(buffer, at, text, numbers[word], end - at)


@part
def find_servable(
    numbers: NDArray[np.int64],
    text: NDArray[np.uint8],
    buffer: NDArray[np.uint8],
    name: tuple[int, int],
    version: tuple[int, int],
) -> int:
    """Return the position of the servable that a request names, 0 for none; `name` and `version` are (begin, end)."""
    at = numbers[N_TABLE + (hash_of(buffer, name[0], name[1]) & (numbers[N_BUCKETS] - 1))]
    any_version = version[0] == version[1]
    while at:
        if is_text_of(numbers, text, at + S_NAME, buffer, name[0], name[1]):
            if any_version and numbers[at + S_NEWEST]:
                return int64(at)
            if not any_version and is_text_of(numbers, text, at + S_VERSION, buffer, version[0], version[1]):
                return int64(at)
        at = numbers[at + S_NEXT]
    return 0


@part
def find_tensor(
    numbers: NDArray[np.int64], text: NDArray[np.uint8], group: int, guess: int, buffer: NDArray[np.uint8],
    name: tuple[int, int],
) -> int:  # fmt: skip
    """Return which tensor of a servable has this name, -1 for none; `group` is the word of its inputs or outputs.

    The search begins at `guess`, because most clients send tensors in the model's order.
    """
    count = numbers[group + 1]
    for k in range(count):
        index = guess + k
        index = index - count if index >= count else index
        if is_text_of(numbers, text, numbers[group] + index * T_WORDS + T_NAME, buffer, name[0], name[1]):
            return index
    return -1
