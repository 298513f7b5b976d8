"""The REST API of an MLflow tracking server, as far as serving by alias needs it: a few questions, all GET.

Source: MLflow's documentation of its REST API, and of its artifact proxy (`mlflow-artifacts`). Credentials come from
the variables that MLflow's own client reads. Knows nothing of packages.
"""

import base64
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from email.message import Message
from hashlib import sha256
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from serving.errors import ConfigError, RegistryAway, RegistryDamaged, RegistryError
from serving.package.manifest import BLOB_BYTES_MAX
from serving.registry.names import Alias, Version
from serving.registry.place import is_mlflow

TIMEOUT_S = 10.0
"""How long a server may say nothing."""

ANSWER_S_MAX = 30.0
"""How long an answer that is no file may take."""

ANSWER_BYTES_MAX = 4 << 20
CHUNK_BYTES = 1 << 20
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_PROXY = "mlflow-artifacts"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a registered model. `source` is where MLflow says that it came from, `created` its time."""

    model: str
    number: int
    source: str
    run_id: str
    created: str

    @property
    def key(self) -> str:
        """Tells this version from another of its number, which there is when a model was removed and made again."""
        said = json.dumps([self.model, self.number, self.source, self.run_id, self.created])
        return sha256(said.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.model}/{self.number} of MLflow"


class MlflowServer:
    """One tracking server. Any thread may use it: it keeps no connection.

    `stopping` is asked while files come; when it says so they are given up. Every method raises RegistryAway when the
    server cannot be asked or does not answer as MLflow does, and RegistryError for what it does not know.
    """

    def __init__(self, uri: str, environment: Mapping[str, str], stopping: Callable[[], bool] = lambda: False) -> None:
        self.url = _url(uri)
        self._headers = _headers(environment)
        self._opener = build_opener(_NoRedirect(), HTTPSHandler(context=_trust(environment)))
        self._stopping = stopping

    def named_by(self, alias: Alias) -> ModelVersion:
        """Return the version that an alias names now."""
        answer = self._ask("registered-models/alias", name=alias.model, alias=alias.name)
        return self._version(answer, alias.model)

    def version(self, version: Version) -> ModelVersion:
        """Return a version by its number."""
        answer = self._ask("model-versions/get", name=version.model, version=str(version.sequence))
        return self._version(answer, version.model)

    def folder(self, version: ModelVersion) -> str:
        """Return where the files of a version lie in the server's artifact proxy."""
        answer = self._ask("model-versions/get-download-uri", name=version.model, version=str(version.number))
        uri = answer.get("artifact_uri")
        try:
            parts = urlsplit(uri if isinstance(uri, str) and uri.isprintable() else "")
        except ValueError:
            parts = urlsplit("")
        if parts.scheme != _PROXY or parts.netloc not in {"", urlsplit(self.url).netloc}:
            raise RegistryError(
                f"{version} lies at {uri!r:.200}; only files that the MLflow server itself hands out are fetched: "
                "start it with --serve-artifacts, and log the model again"
            )
        return parts.path.strip("/")

    def files(self, folder: str) -> dict[str, int | None]:
        """Return the names of the files in a folder of artifacts, and their lengths where the server tells them."""
        listed = self._ask_at(f"{_PROXY}/artifacts", path=folder).get("files", [])
        found: dict[str, int | None] = {}
        for entry in listed if isinstance(listed, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("path"), str) and not entry.get("is_dir"):
                count = entry.get("file_size")
                found[entry["path"].rpartition("/")[2]] = count if type(count) is int else None
        return found

    def read(self, path: str, bytes_max: int) -> bytes:
        """Return a short artifact."""
        with closing(self._open(f"{_PROXY}/artifacts/{quote(path)}")) as response:
            return self._short(response, bytes_max)

    def download(self, path: str, target: Path, bytes_count: int | None) -> None:
        """Write an artifact to a new file. Raises RegistryDamaged when it has not the length that was said before."""
        with closing(self._open(f"{_PROXY}/artifacts/{quote(path)}")) as response:
            said = response.length if bytes_count is None else bytes_count
            if said is not None and said > BLOB_BYTES_MAX:
                raise RegistryError(
                    f"MLflow server {self.url}: {path!r:.200} has {said} bytes, at most {BLOB_BYTES_MAX}"
                )
            count = self._write(response, target, BLOB_BYTES_MAX if said is None else said)
        if count > BLOB_BYTES_MAX or said not in {None, count}:
            raise RegistryDamaged(
                f"MLflow server {self.url}: {path!r:.200} came as {count} bytes or more, expected {said}"
            )

    # ---- within ----------------------------------------------------------------------------------------------------

    def _version(self, answer: Mapping[str, Any], model: str) -> ModelVersion:
        facts = answer.get("model_version")
        if not isinstance(facts, dict) or facts.get("name") != model or not _is_number(facts.get("version")):
            raise RegistryAway(
                f"MLflow server {self.url} was asked for '{model}' and does not answer with a version of it"
            )
        if facts.get("status", "READY") != "READY":
            raise RegistryError(f"{model}/{facts['version']} of MLflow is {facts['status']!r:.80}, expected READY")
        source, run_id, created = (str(facts.get(name, "")) for name in ("source", "run_id", "creation_timestamp"))
        return ModelVersion(model, int(facts["version"]), source, run_id, created)

    def _ask(self, question: str, **arguments: str) -> dict[str, Any]:
        return self._ask_at(f"mlflow/{question}", **arguments)

    def _ask_at(self, path: str, /, **arguments: str) -> dict[str, Any]:
        with closing(self._open(f"{path}?{urlencode(arguments)}")) as response:
            data = self._short(response, ANSWER_BYTES_MAX)
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise RegistryAway(f"{self.url} does not answer as MLflow does: {data[:80]!r}")
        return answer

    def _open(self, path: str) -> HTTPResponse:
        request = Request(f"{self.url}/api/2.0/{path}", headers=self._headers)  # noqa: S310 - http or https, see _url
        try:
            response: HTTPResponse = self._opener.open(request, timeout=TIMEOUT_S)
        except HTTPError as error:
            with closing(error):
                raise self._refusal(error) from None
        except (OSError, HTTPException) as error:
            raise self._away(error) from None
        return response

    def _short(self, response: IO[bytes], bytes_max: int) -> bytes:
        """Read an answer that is bounded in bytes and in time."""
        end = time.monotonic() + ANSWER_S_MAX
        data = bytearray()
        for chunk in self._chunks(response):
            data += chunk
            if len(data) > bytes_max or time.monotonic() > end:
                limit = f"{bytes_max} bytes in {ANSWER_S_MAX:.0f} s"
                raise RegistryAway(f"MLflow server {self.url} answers with more than {limit}, which is no such answer")
        return bytes(data)

    def _write(self, response: IO[bytes], target: Path, bytes_max: int) -> int:
        """Write what comes to a new file, up to the bound; return how much came, one chunk beyond it at most."""
        count = 0
        with target.open("xb") as file:
            for chunk in self._chunks(response):
                count += len(chunk)
                if count > bytes_max:
                    break
                file.write(chunk)
        return count

    def _chunks(self, response: IO[bytes]) -> Iterator[bytes]:
        while True:
            if self._stopping():
                raise RegistryAway("the server is stopping; what came from MLflow so far is given up")
            try:
                chunk: bytes = response.read1(CHUNK_BYTES)  # type: ignore[attr-defined]
            except (OSError, HTTPException) as error:
                raise self._away(error) from None
            if not chunk:
                return
            yield chunk

    def _refusal(self, error: HTTPError) -> RegistryError:
        """Say why the server answered with an error."""
        if error.code in {401, 403}:
            return RegistryAway(
                f"MLflow server {self.url} answers {error.code}; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        if 300 <= error.code < 400:
            place = str(error.headers.get("Location", "nowhere"))
            return RegistryAway(f"MLflow server {self.url} sends on to {place!r:.200}; name the right address")
        try:
            said = json.loads(self._short(error, ANSWER_BYTES_MAX))["message"]
        except (RegistryError, ValueError, RecursionError, TypeError, KeyError):
            said = None
        if error.code in {400, 404} and isinstance(said, str):
            return RegistryError(f"MLflow server {self.url}: {said!r:.300}")
        return RegistryAway(f"MLflow server {self.url} answers {error.code}")

    def _away(self, error: Exception) -> RegistryAway:
        reason = getattr(error, "reason", None) or error
        return RegistryAway(f"MLflow server {self.url} cannot be asked: {str(reason) or type(error).__name__:.200}")


class _NoRedirect(HTTPRedirectHandler):
    """Follows nothing: credentials belong to the server that was named."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str  # noqa: ARG002
    ) -> None:  # fmt: skip
        """See urllib.request."""
        return


def _url(uri: str) -> str:
    """Return the URL of a server. Raises ConfigError."""
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not is_mlflow(uri) or not uri.isascii() or not uri.isprintable() or " " in uri:
        raise ConfigError(f"registry {uri!r:.200}: expected mlflow+http://HOST:PORT, or mlflow+https")
    if "@" in parts.netloc:
        raise ConfigError(
            "registry: credentials do not belong into the URI, which is logged; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if parts.query or parts.fragment:
        raise ConfigError(f"registry {uri!r:.200}: expected nothing after the server's address")
    return uri.removeprefix("mlflow+").rstrip("/")


def _headers(environment: Mapping[str, str]) -> dict[str, str]:
    user, password = (environment.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
    token = environment.get("MLFLOW_TRACKING_TOKEN", "")
    headers = {"User-Agent": "penstock"}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    elif token:
        if not token.isascii() or not token.isprintable():
            raise ConfigError("MLFLOW_TRACKING_TOKEN is no token: it holds what a header cannot")
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _trust(environment: Mapping[str, str]) -> ssl.SSLContext:
    """Trust the CAs of this machine, or those of the file that MLflow's client would take. Raises ConfigError."""
    file = environment.get("MLFLOW_TRACKING_SERVER_CERT_PATH", "")
    try:
        return ssl.create_default_context(cafile=file or None)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"MLFLOW_TRACKING_SERVER_CERT_PATH = {file}: {error.strerror or error}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and _NUMBER.fullmatch(value) is not None
