"""What the long run fuzzes: every kernel of `serving.wire`, each against its slow twin.

The laws are those of `tests/property`; here they meet many more cases, and odder ones.
"""

import random

import hpack
from hpack.exceptions import HPACKError
from hypothesis import HealthCheck, given, seed, settings

from tests.property.test_hpack_twin import encode_freely, twin_table
from tests.property.test_infer_twin import (
    CORPUS,
    CORPUS_READER,
    check_mutations,
    models_and_fields,
    mutated_bytes,
    ordinary,
    written,
)
from tests.property.test_response_twin import run_answers
from tests.support.answering import Story
from tests.support.exchanges import check_exchange, sessions
from tests.support.fuzzing import Target
from tests.support.odd_sessions import odd_session
from tests.support.session_laws import check_session
from tests.support.wire import HeaderDecoder

NAMES = [b":method", b":path", b"grpc-timeout", b"te", b"content-type", b"x", b"user-agent", b"cookie", b"trace-bin"]
TABLE_BYTES = 4096
LIST_BYTES_MAX, LIST_BYTES_HARD = 16_384, 262_144
FIELD_OVERHEAD_BYTES = 32
"""What RFC 7541 counts for a field beside its texts."""
MODELS_PER_CASE, MUTATIONS_PER_MODEL = 4, 60
BATCHES_PER_CASE = 20


# ---- header blocks ---------------------------------------------------------------------------------------------------


def header_blocks(seed: int) -> list[bytes]:
    """Return the header blocks of a connection, some of them damaged."""
    choice, encoder = random.Random(f"blocks {seed}"), hpack.Encoder()
    draw = choice.choice([header_list, tiny_header_list])
    if draw is tiny_header_list:
        encoder.header_table_size = choice.choice([67, 68, 100, 135])
    blocks = [encode_freely(encoder, draw(choice), choice) for _ in range(choice.randrange(1, 9))]
    damaged = choice.randrange(2 * len(blocks))
    return [damage(choice, block) if at == damaged else block for at, block in enumerate(blocks)]


def header_list(choice: random.Random) -> list[tuple[bytes, bytes]]:
    """Draw fields, of which many come again, and some fill the table exactly."""
    fields = []
    for _ in range(choice.randrange(12)):
        name = choice.choice([*NAMES, choice.randbytes(choice.choice([0, 1, 20]))])
        room = TABLE_BYTES - FIELD_OVERHEAD_BYTES - len(name)
        length = choice.choice([0, 1, 8, 60, 900, 1500, room - 1, room, room + 1])
        value = bytes(choice.choice(b"ab") for _ in range(min(length, 8))) + bytes(max(0, length - 8))
        fields += [(name, value)] * choice.choice([1, 1, 2])
    return fields


def tiny_header_list(choice: random.Random) -> list[tuple[bytes, bytes]]:
    """Draw fields of which a small table holds a few, often to the last byte."""
    return [(choice.choice([b"x", b"yz"]), b"v" * choice.randrange(4)) for _ in range(choice.randrange(9))]


def damage(choice: random.Random, block: bytes) -> bytes:
    changed = bytearray(block or b"\x82")
    for _ in range(choice.randrange(1, 4)):
        at, kind = choice.randrange(len(changed)), choice.randrange(4)
        if kind == 0:
            changed[at] = choice.choice([0x20, 0x3F, 0x40, 0x7F, 0x80, 0xBE, 0xFF, choice.randrange(256)])
        elif kind == 1:
            changed[at:at] = choice.choice(
                [b"\xff" * 6, b"\x3f\xe1\x1f", b"\x20" * 3, b"\xbe" * 40, choice.randbytes(3)]
            )
        elif kind == 2:
            changed[at:] = changed[at:] * 2
        else:
            del changed[choice.randrange(len(changed)) :]
        changed = changed or bytearray(b"\x82")
    return bytes(changed)


def check_header_blocks(_seed: int, blocks: list[bytes]) -> None:
    """Decode block after block as the twin does, up to the first one that is refused."""
    decoder, twin = HeaderDecoder(), hpack.Decoder(max_header_list_size=2**30)
    for block in blocks:
        decoded, _, table = decoder.decode(block)
        try:
            expected = [(bytes(name), bytes(value)) for name, value in twin.decode(block, raw=True)]
        except HPACKError:
            assert isinstance(decoded, int)
            return
        if isinstance(decoded, int):
            assert counted(expected) > LIST_BYTES_HARD or has_many_size_updates(block)
            return
        assert decoded == within(expected, LIST_BYTES_MAX)
        assert table == twin_table(twin)


def counted(fields: list[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) + FIELD_OVERHEAD_BYTES for name, value in fields)


def within(fields: list[tuple[bytes, bytes]], bytes_max: int) -> list[tuple[bytes, bytes]]:
    """Return the fields before the one that makes the list too long."""
    last = next((k for k in range(len(fields)) if counted(fields[: k + 1]) > bytes_max), len(fields))
    return fields[:last]


def has_many_size_updates(block: bytes) -> bool:
    """Say whether a block begins with more than two size updates, which RFC 7541 never needs."""
    updates, at = 0, 0
    while at < len(block) and block[at] & 0xE0 == 0x20:
        updates += 1
        at += 1
        if block[at - 1] & 0x1F == 0x1F:
            while at < len(block) and block[at] & 0x80:
                at += 1
            at += 1
    return updates > 2


# ---- messages --------------------------------------------------------------------------------------------------------


def check_messages(number: int, _pieces: list[bytes]) -> None:
    """Draw models and an honest request to one of them, and damage it many times."""

    def law(drawn) -> None:
        models, fields = drawn
        check_mutations(models, fields, random.Random(number), MUTATIONS_PER_MODEL)

    quiet = settings(
        max_examples=MODELS_PER_CASE,
        derandomize=False,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    seed(number)(quiet(given(models_and_fields())(law)))()


def damaged_messages(number: int) -> list[bytes]:
    """Return one request with its bytes damaged in many ways."""
    choice, message = random.Random(f"messages {number}"), written(CORPUS[1])
    found = []
    for _ in range(200):
        damaged = message
        for _ in range(choice.randrange(1, 5)):
            damaged = mutated_bytes(choice, damaged) or b"\0"
        found.append(damaged)
    return found


def check_damaged_messages(_seed: int, messages: list[bytes]) -> None:
    for message in messages:
        reading = CORPUS_READER.read(message)
        assert reading is None or reading == ordinary(message, CORPUS[0])


TARGETS = [
    Target("sessions", check_session, lambda number: odd_session(random.Random(f"session {number}"))),
    Target("exchanges", check_exchange, sessions),
    Target("output", lambda number, _: Story(number).run()),
    Target("blocks", check_header_blocks, header_blocks),
    Target("messages", check_messages),
    Target("damaged", check_damaged_messages, damaged_messages),
    Target("answers", lambda number, _: run_answers(number, BATCHES_PER_CASE)),
]
