"""The steps for texts: from strings to the numbers of their tokens, in rows of one length. Builders of drafts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.pipeline.parameters import Parameters
from serving.pipeline.step import Dims, Draft, Flow, Host
from serving.types import DYNAMIC, Array, Datatype

TOKENS_MAX = 1 << 16


def tokenise(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Turn each text into the numbers of its tokens, and a mask of 1 for a token and 0 for what fills up the row.

    `file` is a tokenizer.json of the `tokenizers` library. Rows get `length` tokens, or, of `lengths`, the least that
    holds the longest text of the batch. Longer texts are refused, or with `truncate` cut. Texts of more than
    `bytes_max` are refused.
    """
    flow = reads[0]
    if flow.spec.datatype is not Datatype.BYTES or flow.spec.is_binary or flow.dims not in {(), (1,)}:
        raise parameters.error(f"'{flow.spec.name}' is not one text per row, expected BYTES [-1]")
    lengths = parameters.buckets(TOKENS_MAX)
    datatype = Datatype.INT64
    if parameters.has("datatype"):
        datatype = parameters.datatype("datatype", (Datatype.INT64, Datatype.INT32))
    work = _Tokeniser(
        _tokenizer(parameters),
        lengths,
        parameters.whole("pad", 0, minimum=0, maximum=(1 << 31) - 1),
        parameters.whole("bytes_max", 1 << 16),
        parameters.flag("truncate", default=False),
        datatype,
    )
    length = lengths[0] if len(lengths) == 1 else DYNAMIC

    def follow(_: Sequence[Dims]) -> tuple[Dims, ...]:
        return (length,), (length,)

    return Draft(Host(work, is_quick=False), (datatype, datatype), follow)


def _tokenizer(parameters: Parameters) -> Any:
    """Read a tokenizer; rows are filled up and cut here, so its own rules for that are put aside."""
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - behind an extra
    except ImportError:
        raise parameters.error("needs the tokenizers library: pip install 'penstock[text]'") from None
    content = parameters.file("file")
    try:
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise parameters.error(f"file: not a tokenizer.json of the tokenizers library: {reason}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@dataclass(frozen=True, slots=True)
class _Tokeniser:
    """Tokenises a batch; the library works on its texts side by side, without the GIL."""

    tokenizer: Any
    lengths: tuple[int, ...]
    pad: int
    bytes_max: int
    truncates: bool
    datatype: Datatype

    def __call__(self, arrays: Sequence[Array], reasons: dict[int, str]) -> Sequence[Array]:
        texts = [self._text(row, text, reasons) for row, text in enumerate(arrays[0].reshape(-1).tolist())]
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        for row, tokens in enumerate(rows):
            if len(tokens) > self.lengths[-1]:
                if not self.truncates:
                    reasons.setdefault(row, f"a text of {len(tokens)} tokens came, expected at most {self.lengths[-1]}")
                del tokens[self.lengths[-1] :]
        longest = max(map(len, rows), default=0)
        length = next(length for length in self.lengths if length >= longest)
        numbers = np.full((len(rows), length), self.pad, self.datatype.dtype)
        mask = np.zeros((len(rows), length), self.datatype.dtype)
        for row, tokens in enumerate(rows):
            numbers[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return [numbers, mask]

    def _text(self, row: int, text: str, reasons: dict[int, str]) -> str:
        """Return a text, or an empty one in place of one that is too long to be looked at."""
        count = len(text) if len(text) > self.bytes_max else len(text.encode())
        if count <= self.bytes_max:
            return text
        reasons[row] = f"a text of {count} bytes or more came, expected at most bytes_max = {self.bytes_max}"
        return ""
