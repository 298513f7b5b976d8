"""What the parts of a JPEG or PNG file say before a library decodes it: a small file must not cost minutes. Pure.

A library walks over the parts of a file in Python, and decodes each scan of a JPEG over the whole picture, so both are
counted. Sources: ITU-T T.81, annex B (JPEG); W3C PNG, "Datastream structure".
"""

import re

PARTS_MAX = 10_000
"""The most segments of a JPEG, or chunks of a PNG; of both a file has one for some kilobytes."""
SCANS_MAX = 100
"""The most scans of a JPEG. Progressive ones have about ten."""

_PNG = b"\x89PNG\r\n\x1a\n"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # what is left are stuffed bytes and restarts within a scan
_WITHOUT_LENGTH = (0x01, 0xD8)
_END, _SCAN = 0xD9, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_IN_SEQUENCE = (0xC0, 0xC1, 0xC9)


def flaw(octets: bytes) -> str:
    """Say what makes a file too dear to decode, "" of others. Looks at no more than PARTS_MAX parts."""
    if octets.startswith(_PNG):
        return _flaw_of_png(octets)
    return _flaw_of_jpeg(octets) if octets.startswith(b"\xff\xd8") else ""


def _flaw_of_png(octets: bytes) -> str:
    at = len(_PNG)
    for _ in range(PARTS_MAX):
        if at + 8 > len(octets):
            return ""
        at += 12 + int.from_bytes(octets[at : at + 4])  # length, kind, check
    return f"a PNG of more than {PARTS_MAX} chunks came, expected fewer; save it anew"


def _flaw_of_jpeg(octets: bytes) -> str:
    at, parts, scans, components = 2, 0, 0, -1
    while parts <= PARTS_MAX:
        found = _MARKER.search(octets, at)
        if found is None or octets[found.end() - 1] == _END:
            return ""
        marker, parts = octets[found.end() - 1], parts + 1
        if not scans:
            parts += found.start() - at  # filling, which a library skips byte by byte
        at = found.end()
        if marker in _WITHOUT_LENGTH:
            continue
        if marker in _FRAMES:
            components = octets[at + 7] if at + 7 < len(octets) and marker in _IN_SEQUENCE else -1
        if marker == _SCAN:
            if not scans and octets[at + 2 : at + 3] == bytes([max(components, 0)]):
                return ""  # all components in one sequential scan: nothing behind it is decoded
            scans += 1
            if scans > SCANS_MAX:
                return f"a JPEG of more than {SCANS_MAX} scans came, expected fewer; save it anew"
        at += max(2, int.from_bytes(octets[at : at + 2]))
    return f"a JPEG of more than {PARTS_MAX} segments came, expected fewer; save it anew"
