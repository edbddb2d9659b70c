"""The REST client of the command line, on ``http.client`` alone.

Finds the region (``--data`` > ``BOOTPLANE_URL`` > ``BOOTPLANE_DATA``), sends the token, and turns every way a call can
fail into one ``CliError`` sentence. Invariant: the token appears in the Authorization header and nowhere else, in no
sentence and no ``repr``. Paths and bodies of the API are the commands' business; this module knows none of them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from bootplane.control.cli.failure import CliError

API = "/api/v1"
TIMEOUT_S = 30.0
SLOW_TIMEOUT_S = 300.0  # adding a source fetches and verifies its index before the region answers


@dataclass(frozen=True)
class Endpoint:
    """Where a region answers. *origin* says what named it, for sentences: a directory or a variable."""

    url: str
    token: str = field(repr=False)
    origin: str


@dataclass(frozen=True)
class Event:
    """One server-sent event: its name and its decoded JSON."""

    name: str
    data: Any


class Problem(CliError):
    """The region answered and said no. *status* is the HTTP status, *document* the problem+json body."""

    def __init__(self, sentence: str, status: int, document: Mapping[str, Any]) -> None:
        super().__init__(sentence)
        self.status = status
        self.document = document


class Unreachable(CliError):
    """Nobody answered. Kept apart because ``sync --wait`` outlives a region's restart and other commands do not."""


def quoted(name: str, safe: str = "") -> str:
    """*name* as one segment of a path, or as several with *safe* "/"."""
    return quote(name, safe=safe)


def find_endpoint(data: Path | None, environ: Mapping[str, str] | None = None) -> Endpoint:
    """The region that *data* or the environment names. Raises CliError when none is named or its files are missing."""
    env = os.environ if environ is None else environ
    if data is None and env.get("BOOTPLANE_URL"):
        token = env.get("BOOTPLANE_TOKEN", "").strip()
        if not token:
            raise CliError(
                "BOOTPLANE_URL is set but BOOTPLANE_TOKEN is not: put the text of the region's admin-token file there."
            )
        return Endpoint(url=env["BOOTPLANE_URL"].rstrip("/"), token=token, origin="BOOTPLANE_URL")
    directory = data if data is not None else Path(env["BOOTPLANE_DATA"]) if env.get("BOOTPLANE_DATA") else None
    if directory is None:
        raise CliError(
            "No region is named: give --data DIR, or set BOOTPLANE_DATA, or BOOTPLANE_URL and BOOTPLANE_TOKEN."
        )
    return Endpoint(url=f"http://{_region_address(directory)}", token=_token(directory), origin=str(directory))


def connect(data: Path | None) -> Client:
    return Client(find_endpoint(data))


def read_run(directory: Path) -> dict[str, Any]:
    """What ``up`` or ``region`` wrote to DIR/run.json: the addresses it listens on."""
    path = directory / "run.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CliError(
            f"{path} does not exist, so no region runs there: start one with `bootplane up --data {directory}`."
        ) from None
    except (OSError, ValueError) as error:
        raise CliError(f"{path} cannot be read: {_reason(error)}.") from None
    if not isinstance(document, dict):
        raise CliError(f"{path}: expected a JSON object, got {type(document).__name__}.")
    return document


def _region_address(directory: Path) -> str:
    address = read_run(directory).get("region")
    if not isinstance(address, str) or ":" not in address:
        raise CliError(f'{directory / "run.json"}: expected the region\'s HOST:PORT under "region", got {address!r}.')
    return _reachable(address)


def _reachable(address: str) -> str:
    """A wildcard address is a place to listen and no place to call: the same host answers on loopback."""
    host, _, port = address.rpartition(":")
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(host, host) + f":{port}"


def _token(directory: Path) -> str:
    path = directory / "admin-token"
    try:
        token = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise CliError(
            f"{path} does not exist: `bootplane up --data {directory}` creates it at its first start."
        ) from None
    except (OSError, ValueError) as error:
        raise CliError(
            f"{path} cannot be read: {_reason(error)}; run as the user who runs the region, or set BOOTPLANE_TOKEN."
        ) from None
    if not token:
        raise CliError(f"{path} is empty: expected the region's admin token.")
    return token


def _reason(error: BaseException) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


class Client:
    """Calls one region. One connection per call: the calls are few, and a region may restart between two of them."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def post(self, path: str, body: Any = None, timeout_s: float = TIMEOUT_S) -> Any:
        return self.call("POST", path, body, timeout_s)

    def patch(self, path: str, body: Any, timeout_s: float = TIMEOUT_S) -> Any:
        return self.call("PATCH", path, body, timeout_s)

    def delete(self, path: str) -> Any:
        return self.call("DELETE", path)

    def items(self, path: str) -> dict[str, Any]:
        """A list endpoint, all pages: ``{"items": [...], "next": null}``."""
        document = self.get(path)
        following = document.get("next")
        while following:
            page = self.get(f"{path}{'&' if '?' in path else '?'}after={following}")
            document["items"] += page["items"]
            following = page.get("next")
        document["next"] = None
        return dict(document)

    def call(self, method: str, path: str, body: Any = None, timeout_s: float = TIMEOUT_S) -> Any:
        """Decoded JSON of the answer, or None for an empty one. Raises Problem, Unreachable or CliError."""
        connection, response = self._send(method, path, body, timeout_s, accept="application/json")
        try:
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(method, path, error, timeout_s) from None
        finally:
            connection.close()
        document = self._decode(method, path, response, raw)
        if response.status >= 400:
            raise self._problem(method, path, response, document)
        return document

    @contextlib.contextmanager
    def opened(
        self, method: str, path: str, headers: Mapping[str, str], timeout_s: float
    ) -> Iterator[http.client.HTTPConnection]:
        """A request whose head has been sent: its body is the caller's to send, the answer ``answer``'s to read.

        A connection that breaks within the block raises Unreachable.
        """
        connection = self._connection(timeout_s)
        try:
            connection.putrequest(method, API + path)
            for name, value in {"Authorization": f"Bearer {self.endpoint.token}", **headers}.items():
                connection.putheader(name, value)
            connection.endheaders()
            yield connection
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(method, path, error, timeout_s) from None
        except ValueError:
            raise CliError(
                f"The token given for {self.endpoint.url} holds characters that HTTP cannot carry."
            ) from None
        finally:
            connection.close()

    def answer(self, connection: http.client.HTTPConnection, method: str, path: str, timeout_s: float) -> Any:
        """The answer to a request of ``opened``: decoded JSON. Raises Problem, Unreachable or CliError."""
        try:
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(method, path, error, timeout_s) from None
        document = self._decode(method, path, response, raw)
        if response.status >= 400:
            raise self._problem(method, path, response, document)
        return document

    def events(self, path: str = "/events") -> Iterator[Event]:
        """The event stream until the region closes it. The caller ends it by closing the generator."""
        connection, response = self._send("GET", path, None, timeout_s=None, accept="text/event-stream")
        try:
            if response.status >= 400:
                raise self._problem("GET", path, response, self._decode("GET", path, response, response.read()))
            yield from parse_events(response)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable("GET", path, error, None) from None
        finally:
            connection.close()

    def _send(
        self, method: str, path: str, body: Any, timeout_s: float | None, accept: str
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        headers = {"Authorization": f"Bearer {self.endpoint.token}", "Accept": accept}
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        connection = self._connection(timeout_s)
        try:
            connection.request(method, API + path, payload, headers)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(method, path, error, timeout_s) from None
        except ValueError:  # http.client refuses a token or path with a line break in it, and would quote it
            connection.close()
            raise CliError(
                f"The token or the name given for {self.endpoint.url} holds characters that HTTP cannot carry."
            ) from None

    def _connection(self, timeout_s: float | None) -> http.client.HTTPConnection:
        url = self.endpoint.url
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            raise CliError(f"{self.endpoint.origin} {url!r}: the port is not a number.") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise CliError(f"{self.endpoint.origin}: expected http://HOST:PORT or https://HOST:PORT, got {url!r}.")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname, port, timeout=timeout_s)

    def _unreachable(self, method: str, path: str, error: Exception, timeout_s: float | None) -> Unreachable:
        url = self.endpoint.url
        if isinstance(error, TimeoutError):
            return Unreachable(f"{url} did not answer {method} {API}{path} within {timeout_s:.0f} s.")
        if isinstance(error, socket.gaierror):
            return Unreachable(f"{url}: the host name cannot be resolved ({error.strerror}).")
        why = _reason(error) or type(error).__name__
        start = (
            "check BOOTPLANE_URL, or start the region there"
            if self.endpoint.origin == "BOOTPLANE_URL"
            else f"start it with `bootplane up --data {self.endpoint.origin}`"
        )
        return Unreachable(f"No region answers at {url} ({why}): {start}.")

    def _decode(self, method: str, path: str, response: http.client.HTTPResponse, raw: bytes) -> Any:
        if not raw:
            return None
        kind = response.getheader("Content-Type", "")
        try:
            if "json" not in kind:
                raise ValueError(kind)
            return json.loads(raw)
        except ValueError:
            raise CliError(
                f"{self.endpoint.url} answered {method} {API}{path} with status {response.status} and "
                f"{kind or 'no Content-Type'}, expected JSON: is that a bootplane region?"
            ) from None

    def _problem(self, method: str, path: str, response: http.client.HTTPResponse, document: Any) -> Problem:
        found = document if isinstance(document, dict) else {}
        detail = found.get("detail") or found.get("title")
        if response.status == 401:
            secret = (
                "BOOTPLANE_TOKEN"
                if self.endpoint.origin == "BOOTPLANE_URL"
                else str(Path(self.endpoint.origin) / "admin-token")
            )
            sentence = (
                f"{self.endpoint.url} refused the token in {secret}: it belongs to another region or was replaced."
            )
        elif isinstance(detail, str) and detail:
            sentence = detail
        else:
            sentence = f"{self.endpoint.url} answered {method} {API}{path} with {response.status} {response.reason}."
        return Problem(sentence, response.status, found)


def parse_events(lines: Iterator[bytes] | http.client.HTTPResponse) -> Iterator[Event]:
    """Server-sent events out of *lines* (WHATWG HTML, 9.2.6); comments and unknown fields are skipped."""
    name = ""
    data: list[str] = []
    for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line:
            if data:
                text = "\n".join(data)
                try:
                    yield Event(name or "message", json.loads(text))
                except ValueError:
                    yield Event(name or "message", text)
            name, data = "", []
            continue
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "event":
            name = value
        elif key == "data":
            data.append(value)
