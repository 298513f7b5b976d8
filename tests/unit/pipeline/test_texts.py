import numpy as np
import pytest

from serving.config import PipelineConfig
from serving.errors import LoadError
from serving.pipeline.flaws import RefusedRowsError
from serving.types import DYNAMIC, Datatype, TensorSpec
from tests.support.pipelines import pipeline

tokenizers = pytest.importorskip("tokenizers", reason="needs tokenizers: pip install 'penstock[text]'")
WORDS = {"[UNK]": 0, "[PAD]": 1, "the": 2, "river": 3, "turns": 4, "a": 5, "wheel": 6}


@pytest.fixture
def folder(tmp_path):
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, "[UNK]"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.enable_padding(length=50)  # which must not matter
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def tokenised(folder, texts, **options):
    step = {"step": "tokenise", "input": "text", "file": "tokenizer.json", "outputs": ["ids", "mask"], **options}
    length = options.get("length", DYNAMIC)
    kind = Datatype.INT32 if options.get("datatype") == "INT32" else Datatype.INT64
    inputs = [TensorSpec("ids", kind, (DYNAMIC, length)), TensorSpec("mask", kind, (DYNAMIC, length))]
    built = pipeline(PipelineConfig(preprocess=(step,)), inputs, folder=folder)
    assert built.signature.inputs == (TensorSpec("text", Datatype.BYTES, (DYNAMIC,)),)
    return built.preprocess([np.array(texts, object)], "test")


def slowly(texts, length, pad):
    """The twin: words looked up one by one."""
    rows = [[WORDS.get(word, 0) for word in text.lower().split()][:length] for text in texts]
    return (
        np.array([row + [pad] * (length - len(row)) for row in rows], np.int64).reshape(-1, length),
        np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows], np.int64).reshape(-1, length),
    )


TEXTS = ["The river turns a wheel", "a Wheel", "", "mills"]


@pytest.mark.parametrize("texts", [TEXTS, [], ["a"], TEXTS * 60])
def test_rows_are_filled_up_to_one_length(folder, texts):
    ids, mask = tokenised(folder, texts, length=6, pad=1)
    expected = slowly(texts, 6, 1)
    np.testing.assert_array_equal(ids, expected[0])
    np.testing.assert_array_equal(mask, expected[1])
    assert ids.dtype == np.int64


@pytest.mark.parametrize(("texts", "length"), [(TEXTS, 8), (TEXTS[1:], 2), (["a river turns"], 4), ([], 2)])
def test_a_batch_takes_the_least_length_that_holds_its_longest_text(folder, texts, length):
    ids, mask = tokenised(folder, texts, lengths=[2, 4, 8])
    np.testing.assert_array_equal(ids, slowly(texts, length, 0)[0])
    np.testing.assert_array_equal(mask, slowly(texts, length, 0)[1])


def test_a_text_of_too_many_tokens_is_refused_or_cut(folder):
    with pytest.raises(RefusedRowsError) as caught:
        tokenised(folder, TEXTS, lengths=[2, 4])
    assert caught.value.reasons == {0: "tokenise of 'text': a text of 5 tokens came, expected at most 4"}
    ids, _ = tokenised(folder, TEXTS, lengths=[2, 4], truncate=True, datatype="INT32")
    np.testing.assert_array_equal(ids, slowly(TEXTS, 4, 0)[0])
    assert ids.dtype == np.int32


def test_a_text_of_too_many_bytes_is_refused_without_being_looked_at(folder):
    with pytest.raises(RefusedRowsError) as caught:
        tokenised(folder, ["a", "ü" * 50, "x" * 10_000], length=4, bytes_max=99, truncate=True)
    assert caught.value.reasons == {
        1: "tokenise of 'text': a text of 100 bytes or more came, expected at most bytes_max = 99",
        2: "tokenise of 'text': a text of 10000 bytes or more came, expected at most bytes_max = 99",
    }


WRONG = [
    ({}, "either length, for all batches, or lengths"),
    ({"length": 3, "lengths": [1]}, "either length"),
    ({"length": 0}, "expected a whole number from 1"),
    ({"lengths": [1.5]}, "expected whole numbers"),
    ({"lengths": [4, 2]}, "larger than the one before"),
    ({"length": 4, "file": "none.json"}, "'none.json' in the version's folder cannot be read"),
    ({"length": 4, "file": "broken.json"}, "not a tokenizer.json of the tokenizers library"),
    ({"length": 4, "datatype": "FP32"}, "datatype = 'FP32'"),
    ({"length": 4, "pad": -1}, "pad = -1"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_a_tokeniser_that_cannot_be_is_refused_when_a_model_is_loaded(folder, options, message):
    (folder / "broken.json").write_text("{}")
    with pytest.raises(LoadError, match=message):
        tokenised(folder, [], **options)
