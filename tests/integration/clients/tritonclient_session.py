"""Everything that stock tritonclient can ask over gRPC, in one session: `tritonclient_session.py ADDRESS FOLDER`.

Runs in an environment of its own, since tritonclient registers the protocol's message names itself and pins protobuf.
Reads `inputs.npz` and `strings.json` from FOLDER, writes `outputs.npz` (one array per answer and output) and
`facts.json` (everything else). Judges nothing; the test that started it does.
"""

import asyncio
import json
import queue
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

TIMEOUT_S = 60
MODELS = {
    "network": (("x",), ("y",)),
    "add_and_subtract": (("INPUT0", "INPUT1"), ("OUTPUT0", "OUTPUT1")),
    "negate": (("x",), ("y",)),
    "strings": (("x",), ("y",)),
}


class Session:
    """The inputs, and what came of them."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self.facts: dict[str, object] = {}
        self.outputs: dict[str, np.ndarray] = {}
        self._arrays = dict(np.load(folder / "inputs.npz"))
        self._arrays["strings.x"] = np.array(json.loads((folder / "strings.json").read_text()), np.object_)

    def inputs(self, module, model: str, rows: slice = slice(None)):
        """Build the inputs of a model from its prepared arrays."""
        tensors = []
        for name in MODELS[model][0]:
            array = self._arrays[f"{model}.{name}"][rows]
            tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        return tensors

    def keep(self, key: str, model: str, result) -> None:
        """Keep the outputs of an answer, strings as facts."""
        for name in MODELS[model][1]:
            array = result.as_numpy(name)
            if array.dtype == np.object_:
                self.facts[f"{key}.{name}"] = [[element.decode() for element in row] for row in array]
            else:
                self.outputs[f"{key}.{name}"] = array

    def rows_of(self, model: str) -> int:
        """Return how many rows the prepared arrays hold."""
        return len(self._arrays[f"{model}.{MODELS[model][0][0]}"])


def main() -> None:
    """Run the session."""
    address, folder = sys.argv[1], Path(sys.argv[2])
    session = Session(address, folder)
    with triton.InferenceServerClient(address) as client:
        ask_about_the_server(session, client)
        load_and_unload(session, client)
        infer_one_at_a_time(session, client)
        infer_many_at_once(session, client)
        stream(session, client)
        make_mistakes(session, client)
        asyncio.run(use_asyncio(session))
        session.facts["statistics"] = client.get_inference_statistics("add_and_subtract", as_json=True)
    np.savez(folder / "outputs.npz", **session.outputs)
    (folder / "facts.json").write_text(json.dumps(session.facts))


def ask_about_the_server(session: Session, client) -> None:
    """Health, metadata, configuration."""
    session.facts |= {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": client.is_model_ready("network"),
        "version ready": client.is_model_ready("network", "1"),
        "server": client.get_server_metadata(as_json=True),
        "metadata": client.get_model_metadata("add_and_subtract", as_json=True),
        "config": client.get_model_config("add_and_subtract", as_json=True),
        "no statistics yet": client.get_inference_statistics("add_and_subtract", "1", as_json=True),
    }


def load_and_unload(session: Session, client) -> None:
    """Unload a model and load it again, with the index at each step."""
    states = []
    for step in (lambda: None, lambda: client.unload_model("network"), lambda: client.load_model("network")):
        step()
        index = client.get_model_repository_index(as_json=True)["models"]
        states.append([entry["state"] for entry in index if entry["name"] == "network"])
    session.facts["states"] = states


def infer_one_at_a_time(session: Session, client) -> None:
    """Every model, one request after the other, with the options that a client can set."""
    for model in MODELS:
        result = client.infer(
            model,
            session.inputs(triton, model),
            model_version="1",
            outputs=[triton.InferRequestedOutput(name) for name in reversed(MODELS[model][1])],
            request_id=f"sync {model}",
            priority=1,
            timeout=TIMEOUT_S * 1_000_000,
            client_timeout=TIMEOUT_S,
            compression_algorithm="gzip",
            parameters={"tag": "ignored"},
        )
        response = result.get_response()
        session.facts[f"sync {model}"] = [response.model_name, response.model_version, response.id]
        session.facts[f"sync {model} outputs"] = [tensor.name for tensor in response.outputs]
        session.keep(f"sync.{model}", model, result)


def infer_many_at_once(session: Session, client) -> None:
    """One request per row of every model, all in flight together."""
    answers: queue.Queue = queue.Queue()
    sent = 0
    for model in MODELS:
        for row in range(session.rows_of(model)):

            def answer(result, error, model=model, row=row):
                answers.put((model, row, result, error))

            client.async_infer(
                model, session.inputs(triton, model, slice(row, row + 1)), answer, client_timeout=TIMEOUT_S
            )
            sent += 1
    for _ in range(sent):
        model, row, result, error = answers.get(timeout=TIMEOUT_S)
        if error is not None:
            raise error
        session.keep(f"async.{row}.{model}", model, result)


def stream(session: Session, client) -> None:
    """One stream for all models, with a bad request in the middle."""
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), stream_timeout=TIMEOUT_S)
    for model in MODELS:
        client.async_stream_infer(model, session.inputs(triton, model), request_id=model)
        client.async_stream_infer("no_such_model", session.inputs(triton, model), request_id="bad")
    errors = []
    for _ in range(2 * len(MODELS)):
        result, error = answers.get(timeout=TIMEOUT_S)
        if error is not None:
            errors.append(error.message())
        else:
            model = result.get_response().id
            session.keep(f"stream.{model}", model, result)
    client.stop_stream()
    session.facts["stream errors"] = errors


def make_mistakes(session: Session, client) -> None:
    """What a client hears of its own mistakes."""
    (tensor,) = session.inputs(triton, "network")
    renamed = triton.InferInput("z", tensor.shape(), tensor.datatype())
    renamed.set_data_from_numpy(np.zeros(tensor.shape(), np.float32))
    mistakes = {
        "unknown input": lambda: client.infer("network", [renamed]),
        "unknown model": lambda: client.infer("no_such_model", [tensor]),
        "unknown version": lambda: client.infer("network", [tensor], model_version="7"),
        "a sequence": lambda: client.infer("network", [tensor], sequence_id=3, sequence_start=True),
        "a classification": lambda: client.infer(
            "network", [tensor], outputs=[triton.InferRequestedOutput("y", class_count=2)]
        ),
        "shared memory": client.get_system_shared_memory_status,
        "a configuration to load": lambda: client.load_model("network", config="{}"),
        "an unknown model to unload": lambda: client.unload_model("no_such_model"),
    }
    for name, mistake in mistakes.items():
        try:
            mistake()
        except InferenceServerException as error:
            session.facts[name] = [error.status(), error.message()]


async def use_asyncio(session: Session) -> None:
    """The asyncio client: many at once, and a stream."""
    async with triton_aio.InferenceServerClient(session.address) as client:
        session.facts["aio ready"] = await client.is_server_ready()
        rows = range(session.rows_of("network"))
        results = await asyncio.gather(
            *(
                client.infer("network", session.inputs(triton_aio, "network", slice(row, row + 1)), client_timeout=60)
                for row in rows
            )
        )
        for row, result in zip(rows, results, strict=True):
            session.keep(f"aio.{row}.network", "network", result)

        async def requests():
            for model in MODELS:
                yield {"model_name": model, "inputs": session.inputs(triton_aio, model), "request_id": model}

        async for result, error in client.stream_infer(requests(), stream_timeout=TIMEOUT_S):
            if error is not None:
                raise error
            model = result.get_response().id
            session.keep(f"aio stream.{model}", model, result)


if __name__ == "__main__":
    main()
