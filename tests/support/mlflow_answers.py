"""What an MLflow server answers, from memory, on a port of loopback: for answers that the real one never gives.

`versions` and `aliases` are what it knows, `files` the artifacts of each version; `answers` replaces what is said at a
path that begins so.
"""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

API = "/api/2.0/"
ARTIFACTS = "mlflow-artifacts/artifacts"


def mlmodel(flavours=None) -> bytes:
    onnx = {"onnx": {"data": "model.onnx", "onnx_version": "1.19.0", "code": None},
            "python_function": {"loader_module": "mlflow.onnx", "data": "model.onnx"}}  # fmt: skip
    return yaml.safe_dump({"flavors": onnx if flavours is None else flavours, "mlflow_version": "3.1.0"}).encode()


class MlflowAnswers:
    """The state of one server; `asked` are the paths of all requests, `headers` those of the last one."""

    def __init__(self):
        self.aliases, self.versions, self.files, self.answers = {}, {}, {}, {}
        self.asked, self.headers = [], {}
        self.uri = ""

    def register(self, model: str, number: int, files: dict[str, bytes], **facts) -> None:
        said = {"name": model, "version": str(number), "status": "READY", "source": f"models:/m-{number}",
                "run_id": "run", "creation_timestamp": 1_700_000_000_000 + number}  # fmt: skip
        self.versions[model, str(number)] = {**said, **facts}
        self.files[f"1/models/{model}-{number}/artifacts"] = files

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        for prefix, said in self.answers.items():
            if path.startswith(prefix):
                return said(path) if callable(said) else said
        if path == "mlflow/registered-models/alias":
            number = self.aliases.get((query["name"], query["alias"]))
            return self._version(query["name"], number)
        if path == "mlflow/model-versions/get":
            return self._version(query["name"], query["version"])
        if path == "mlflow/model-versions/get-download-uri":
            uri = f"mlflow-artifacts:/1/models/{query['name']}-{query['version']}/artifacts"
            return 200, {}, json.dumps({"artifact_uri": uri}).encode()
        if path == ARTIFACTS:
            listed = [{"path": name, "is_dir": False, "file_size": len(data)}
                      for name, data in self.files[query["path"]].items()]  # fmt: skip
            return 200, {}, json.dumps({"files": listed}).encode()
        folder, _, name = path.removeprefix(f"{ARTIFACTS}/").rpartition("/")
        return 200, {}, self.files[folder][name]

    def _version(self, name: str, number: str | None) -> tuple[int, dict[str, str], bytes]:
        if (name, number) not in self.versions:
            return 404, {}, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Registered model alias not found."}'
        return 200, {}, json.dumps({"model_version": self.versions[name, number]}).encode()


@contextlib.contextmanager
def answering() -> Iterator[MlflowAnswers]:
    answers = MlflowAnswers()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            path = unquote(parts.path).removeprefix(API)
            answers.asked.append(path)
            answers.headers = dict(self.headers)
            status, headers, body = answers.answer(
                path, {key: value[0] for key, value in parse_qs(parts.query).items()}
            )
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):  # the client has heard enough
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        answers.uri = f"mlflow+http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield answers
        finally:
            server.shutdown()
            thread.join()
