"""An S3 server in this process (moto's, over HTTP), which can be told to answer with errors for a while."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "features"
Answer = Callable[..., Any]


class S3Server:
    """Serves one empty bucket on a free port, of the loopback interface unless another is named."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(host, 0, self._answer, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.failing = False
        self.refused = 0
        self.on_write: Callable[[str], None] = lambda path: None
        self.endpoint = f"http://{host}:{self._server.server_port}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": "anyone", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        self.client = boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id="anyone",
            aws_secret_access_key="not-a-secret",
        )  # fmt: skip
        self.client.create_bucket(Bucket=BUCKET)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start_response: Answer) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT":
            self.on_write(environ["PATH_INFO"])
        if self.failing:
            self.refused += 1
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"]
        return self._app(environ, start_response)
