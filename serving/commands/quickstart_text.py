"""Quickstart's text model: a sentence of scikit-learn's descriptions of data sets in, the data set's name out.

A tokenizer knows the words of the sentences, and a naive Bayes model how often each is in them. The graph is that
model, which is linear: the sum of a row of weights for every token that the mask does not leave out.
"""

import importlib.resources
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import MultinomialNB
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from serving.commands.quickstart_raw import VERSION, graph_of

WORDS_MIN = 6
UNKNOWN = "[UNK]"
CONFIG = """[pipeline]
outputs = ["probability", "label"]

[[pipeline.preprocess]]
step = "tokenise"
input = "text"
file = "tokenizer.json"
lengths = [16, 32, 64, 128, 512]
truncate = true
outputs = ["tokens", "mask"]

[[pipeline.postprocess]]
step = "softmax"
input = "scores"

[[pipeline.postprocess]]
step = "top_k"
input = "scores"
k = 1
labels_file = "labels.txt"
outputs = ["probability", "label"]
"""


class SentencesModel:
    """A naive Bayes model of the tokens of sentences."""

    name = "sentences"
    input = "text"
    tolerance = 1e-4

    def __init__(self, model: Any, tokenizer: Tokenizer, sentences: list[str], summary: str) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._held_out = sentences
        self.summary = summary

    def files(self) -> Mapping[str, bytes]:
        """See `RawModel`."""
        labels = "\n".join(self._model.classes_) + "\n"
        return {
            f"{self.name}/model.toml": CONFIG.encode(),
            f"{self.name}/{VERSION}/tokenizer.json": self._tokenizer.to_str().encode(),
            f"{self.name}/{VERSION}/labels.txt": labels.encode(),
            f"{self.name}/{VERSION}/model.onnx": self._graph(),
        }

    def held_out_inputs(self) -> list[Any]:
        """See `RawModel`."""
        return list(self._held_out)

    def reference(self, inputs: Sequence[Any]) -> tuple[list[str], list[float]]:
        """See `RawModel`; with the tokenizers library, numpy and scikit-learn."""
        probabilities = self._model.predict_proba(_counts(self._tokenizer, inputs))
        labels = [str(label) for label in self._model.classes_[probabilities.argmax(axis=1)]]
        return labels, probabilities.max(axis=1).tolist()

    def _graph(self) -> bytes:
        weights = self._model.feature_log_prob_.T.astype(np.float32)
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "n"]) for name in ("tokens", "mask")]
        nodes = [
            helper.make_node("Gather", ["weights", "tokens"], ["of_tokens"]),
            helper.make_node("Cast", ["mask"], ["flags"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["flags", "last"], ["column"]),
            helper.make_node("Mul", ["of_tokens", "column"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "second"], ["sums"], keepdims=0),
            helper.make_node("Add", ["sums", "bias"], ["scores"]),
        ]
        constants = {
            "weights": weights,
            "bias": self._model.class_log_prior_.astype(np.float32),
            "last": np.array([-1]),
            "second": np.array([1]),
        }
        return graph_of(nodes, inputs, constants, weights.shape[1])


def train() -> SentencesModel:
    """Cut the descriptions into sentences, and fit a tokenizer and a model to most of them."""
    sentences, labels = _sentences()
    train_texts, test_texts, train_labels, test_labels = train_test_split(
        sentences, labels, test_size=0.3, random_state=0, stratify=labels
    )
    tokenizer = _tokenizer(train_texts)
    model = MultinomialNB(alpha=0.1).fit(_counts(tokenizer, train_texts), train_labels)
    accuracy = model.score(_counts(tokenizer, test_texts), test_labels)
    summary = (
        f"naive Bayes of the words in scikit-learn's descriptions of {len(model.classes_)} data sets "
        f"({len(train_texts)} sentences): accuracy {accuracy:.3f} on {len(test_texts)} held-out sentences"
    )
    return SentencesModel(model, tokenizer, test_texts, summary)


def _tokenizer(sentences: Sequence[str]) -> Tokenizer:
    """Make a tokenizer of the words of some sentences."""
    splits = pre_tokenizers.BertPreTokenizer()
    normalizer = normalizers.BertNormalizer()
    words = {word for text in sentences for word, _ in splits.pre_tokenize_str(normalizer.normalize_str(text))}
    vocabulary = {word: number for number, word in enumerate([UNKNOWN, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, UNKNOWN))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splits
    return tokenizer


def _sentences() -> tuple[list[str], list[str]]:
    """Return sentences of some words, and which data set each is about."""
    sentences: list[str] = []
    labels: list[str] = []
    for file in sorted(importlib.resources.files("sklearn.datasets.descr").iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".rst"):
            continue
        text = " ".join(file.read_text(encoding="utf-8").split())
        found = [part for part in re.split(r"(?<=[.?!:]) ", text) if len(part.split()) >= WORDS_MIN]
        if len(found) >= WORDS_MIN:
            sentences += found
            labels += [file.name.removesuffix(".rst")] * len(found)
    return sentences, labels


def _counts(tokenizer: Tokenizer, sentences: Sequence[str]) -> NDArray[np.float32]:
    """Return how often each token is in each sentence."""
    counts = np.zeros((len(sentences), tokenizer.get_vocab_size()), np.float32)
    for row, encoding in enumerate(tokenizer.encode_batch(list(sentences))):
        np.add.at(counts[row], encoding.ids, 1)
    return counts
