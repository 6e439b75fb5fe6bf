"""An S3 server on this machine (moto), and a proxy before it that misbehaves on request.

A pytest plugin: `pytest_plugins = ("s3_server",)` in a test module gives it the fixtures
`s3_store` and `s3_proxy`.
"""

from __future__ import annotations

import http.client
import logging
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

_BUCKET_NUMBERS = iter(range(1_000_000))
FAKE_KEY_ID, FAKE_SECRET = "AKIDCANARY", "secretcanary"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The server's address; one for all tests."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_store(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The uri `s3://bucket` of a fresh bucket; the environment leads to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", FAKE_KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", FAKE_SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"bucket-{next(_BUCKET_NUMBERS)}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


class FaultProxy:
    """Passes requests on to the server, unless `fault` says otherwise.

    Attributes:
      fault: takes method and path with query; gives None to pass the request on, "lost" to
        pass it on and answer 503 all the same, "half" to pass it on and break off in the
        middle of the reply's body, or a status to answer without passing anything on.
      num_faults: how often it said so.
    """

    def __init__(self, endpoint: str) -> None:
        self.fault: Callable[[str, str], str | int | None] = lambda method, path: None
        self.num_faults = 0
        proxy, upstream = self, endpoint.removeprefix("http://")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                fault = proxy.fault(self.command, self.path)
                proxy.num_faults += fault is not None
                if not isinstance(fault, int):
                    status, headers, reply = self.pass_on(body)
                if isinstance(fault, int) or fault == "lost":
                    status = fault if isinstance(fault, int) else 503
                    reply = (
                        b"<Error><Code>Injected</Code><Message>by the test</Message>"
                        b"<AWSAccessKeyId>%s</AWSAccessKeyId></Error>" % FAKE_KEY_ID.encode()
                    )
                    headers = []
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                        self.send_header(name, value)
                size = len(reply)
                if self.command == "HEAD":
                    size = int(dict(headers).get("Content-Length", 0))
                self.send_header("Content-Length", str(size))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(reply[: len(reply) // 2] if fault == "half" else reply)
                self.close_connection = fault == "half"

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

            def pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
                connection = http.client.HTTPConnection(upstream)
                try:
                    connection.request(self.command, self.path, body, dict(self.headers))
                    reply = connection.getresponse()
                    return reply.status, reply.getheaders(), reply.read()
                finally:
                    connection.close()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def s3_proxy(
    s3_endpoint: str, s3_store: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """A proxy before the server of `s3_store`; the environment leads to the proxy."""
    proxy = FaultProxy(s3_endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    yield proxy
    proxy.stop()
