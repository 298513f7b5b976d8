"""A real text model: sentences of scikit-learn's descriptions of its data sets in, the data set's name out."""

import numpy as np
import pytest

from serving.errors import RemoteError
from serving.transport.client import Client
from serving.types import Datatype
from tests.support.environments import environment
from tests.support.servers import TRANSPORTS, server_thread
from tests.support.stock_clients import CLIENTS, run_session

pytest.importorskip("tokenizers", reason="needs tokenizers: pip install 'penstock[text]'")


@pytest.fixture(scope="module")
def sentences():
    from serving.commands.quickstart_text import train

    return train()


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(request, sentences, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    for path, content in sentences.files().items():
        (models / path).parent.mkdir(parents=True, exist_ok=True)
        (models / path).write_bytes(content)
    with server_thread(models, **TRANSPORTS[request.param]) as running:
        yield running


def ask(server, name, texts):
    with Client(server.address) as client:
        return client.infer(name, {"text": (Datatype.BYTES, np.array(texts, object))})[1]


def test_sentences_give_the_reference_pipelines_answers(server, sentences):
    texts = sentences.held_out_inputs()
    outputs = ask(server, sentences.name, texts)
    labels, probabilities = sentences.reference(texts)
    np.testing.assert_allclose(outputs["probability"].reshape(-1), probabilities, atol=1e-5)
    assert outputs["label"].reshape(-1).tolist() == labels


def test_stock_tritonclient_sends_sentences_and_gets_names(server, sentences, tmp_path):
    texts = sentences.held_out_inputs()[:10]
    np.savez(tmp_path / "inputs.npz", text=np.array(texts))
    python = environment("tritonclient[grpc]>=2.60,<3")
    found = run_session(python, CLIENTS / "named_tensors_session.py", server.address, tmp_path, sentences.name)
    assert [name for (name,) in found["outputs"]["label"]] == sentences.reference(texts)[0]


def test_a_text_that_is_too_long_is_the_senders_mistake_and_nobody_elses(server, sentences):
    good = sentences.held_out_inputs()[0]
    with pytest.raises(RemoteError, match=r"row 1: tokenise of 'text': a text of \d+ bytes or more came") as caught:
        ask(server, sentences.name, [good, "word " * 20_000])
    assert caught.value.code == "INVALID_ARGUMENT"
    assert len(ask(server, sentences.name, [good])["label"]) == 1
