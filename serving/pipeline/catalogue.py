"""Which steps there are: a name stands for a builder, and only what is complete has a name."""

from collections.abc import Callable, Mapping, Sequence

from serving.pipeline import answers, categories, detection, images, ragged, tabular, texts, user
from serving.pipeline.parameters import Parameters
from serving.pipeline.step import Draft, Flow
from serving.types import DYNAMIC, Datatype, TensorSpec

Builder = Callable[[Parameters, Sequence[Flow]], Draft]
"""Checks what was declared against the tensors that a step reads. Raises LoadError."""

PREPROCESS: Mapping[str, Builder] = {
    "bucketise": tabular.bucketise,
    "cast": tabular.cast,
    "clip": tabular.clip,
    "concat": tabular.concat,
    "crop": images.crop,
    "decode_image": images.decode_image,
    "finite": tabular.finite,
    "flatten": tabular.flatten,
    "hash": categories.hash_,
    "impute": tabular.impute,
    "layout": images.layout,
    "letterbox": images.letterbox,
    "log1p": tabular.log1p,
    "normalise": images.normalise,
    "one_hot": categories.one_hot,
    "ordinal": categories.ordinal,
    "pad": ragged.pad,
    "resize": images.resize,
    "scale": tabular.scale,
    "select": tabular.select,
    "tokenise": texts.tokenise,
    "user": user.user,
}

POSTPROCESS: Mapping[str, Builder] = {
    "argmax": answers.argmax,
    "boxes": detection.boxes,
    "cut": ragged.cut,
    "l2_normalise": answers.l2_normalise,
    "pool": answers.pool,
    "sigmoid": answers.sigmoid,
    "softmax": answers.softmax,
    "threshold": answers.threshold,
    "top_k": answers.top_k,
    "user": user.user,
}

NATURAL: Mapping[str, TensorSpec] = {
    "tokenise": TensorSpec("", Datatype.BYTES, (DYNAMIC,)),
    "decode_image": TensorSpec("", Datatype.BYTES, (DYNAMIC,), is_binary=True),
}
"""What a step reads when nobody has declared it."""

OF_SEVERAL = frozenset({"boxes", "concat", "user"})
"""Steps that read more than one tensor."""

FURTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "boxes": ("scores", "classes"),
    "pad": ("mask", "lengths"),
    "tokenise": ("attention_mask",),
    "top_k": ("labels",),
}
"""What the tensors behind the first of a step that writes several are called when nobody says."""
