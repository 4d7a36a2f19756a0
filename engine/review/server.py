"""The review's server: a page and its requests, on this machine alone, for who has the token.

Every request must name this server as its host, and come from its own page: browsers tell the origin, and other origins
are refused. The token is in the link that the command prints; the page keeps it in a cookie that scripts cannot read.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import EngineError
from engine.report.document import LOGO
from engine.report.gallery import REVIEW_PORT
from engine.review.session import Session

HOST = "127.0.0.1"
MOST_BYTES = 1 << 16  # of a request
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_REFUSED = "Open the link that asterism review printed: it holds the token of this review.\n"


def make_app(session: Session, token: str, port: int) -> ASGIApp:
    """Build the application; ``port``: where it is served, which tells its own origin from others."""

    async def page(request: Request) -> Response:
        if "token" in request.query_params:  # out of the address, so that it is not left in the history
            answer = RedirectResponse("/", 303)
            answer.set_cookie(_cookie(port), token, httponly=True, samesite="lax")
            return answer
        return _asset("review.html", LOGO=LOGO)

    async def asset(request: Request) -> Response:
        return _asset(request.path_params["name"])

    def told(work: Callable[[dict[str, Any]], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            values: dict[str, Any] = {**request.path_params, **request.query_params}
            try:
                if request.method == "POST":
                    values |= await _read(request)
                found = await run_in_threadpool(work, values)
            except (EngineError, KeyError, TypeError, ValueError) as error:
                said = str(error) if isinstance(error, EngineError) else "the request is not as the page sends it"
                return JSONResponse({"error": said}, 409)
            return JSONResponse(found)

        return endpoint

    def next_question(values: dict[str, Any]) -> Any:
        return {"state": session.state(), "question": session.question()}

    def answer(values: dict[str, Any]) -> Any:
        row, other = (int(each) for each in values["rows"])
        place = values.get("place")
        session.answer((row, other), str(values["decision"]), None if place is None else int(place))
        return next_question({})

    def undo(values: dict[str, Any]) -> Any:
        session.undo()
        return next_question({})

    def apply(values: dict[str, Any]) -> Any:
        session.apply()
        return session.state()

    def confirm(values: dict[str, Any]) -> Any:
        session.confirm([int(label) for label in values["labels"]])
        return next_question({})

    def cluster(values: dict[str, Any]) -> Any:
        label, start = int(values["label"]), max(int(values.get("start", 0)), 0)
        return session.read(lambda catalogue: catalogue.cluster(label, start))

    def search(values: dict[str, Any]) -> Any:
        text = str(values.get("q", "")).strip()
        return session.read(lambda catalogue: {"rows": catalogue.search(text), "clusters": catalogue.num_clusters})

    routes = [
        Route("/", page),
        Route("/{name:str}", asset),
        Route("/api/state", told(lambda values: session.state())),
        Route("/api/question", told(next_question)),
        Route("/api/answer", told(answer), methods=["POST"]),
        Route("/api/undo", told(undo), methods=["POST"]),
        Route("/api/apply", told(apply), methods=["POST"]),
        Route("/api/confirm", told(confirm), methods=["POST"]),
        Route("/api/cluster/{label:int}", told(cluster)),
        Route("/api/search", told(search)),
    ]
    return _Guard(Starlette(routes=routes), token, port)


class _Guard:
    """Refuses requests for another host, from another origin, or without the token; sets headers of all answers."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token, self._port = app, token, port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        refusal = self._refusal(request)

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        app: ASGIApp = self._app if refusal is None else PlainTextResponse(refusal, 403)
        await app(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> str | None:
        own = [f"{name}:{self._port}" for name in (HOST, "localhost")]
        if request.headers.get("host") not in own:
            return "This server answers to its own address alone.\n"
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
        # A link of another page may open the review: that only shows it, to the person who clicked.
        opened = (
            request.method == "GET" and request.url.path == "/" and request.headers.get("sec-fetch-dest") == "document"
        )
        if (origin is not None and origin not in [f"http://{each}" for each in own]) or (
            site not in ("none", "same-origin") and not opened
        ):
            return "Other pages may ask nothing of this server.\n"
        given = request.query_params.get("token") or request.cookies.get(_cookie(self._port)) or ""
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return _REFUSED
        return None


def serve(session: Session, port: int | None, opened: Callable[[str], None], cluster: int | None = None) -> None:
    """Serve until interrupted.

    ``port``: ``None`` takes ``REVIEW_PORT`` if it is free, else any. ``opened`` gets the link.
    ``cluster``: the cluster that the link shows, instead of the first question.
    """
    import uvicorn

    listening = _listen(port)
    number = listening.getsockname()[1]
    token = secrets.token_urlsafe(32)
    config = uvicorn.Config(make_app(session, token, number), log_level="error", access_log=False, server_header=False)
    shown = "" if cluster is None else f"#/cluster/{cluster}"
    opened(f"http://{HOST}:{number}/?token={token}{shown}")
    uvicorn.Server(config).run(sockets=[listening])


def _listen(port: int | None) -> socket.socket:
    for wanted in (REVIEW_PORT, 0) if port is None else (port,):
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, wanted))
        except OSError:
            listening.close()
            if wanted == 0 or port is not None:
                raise
            continue
        listening.listen(128)  # so that the link works from the moment when it is told
        return listening
    raise AssertionError("a free port is always found or refused")


async def _read(request: Request) -> dict[str, Any]:
    """Read the JSON object of a request; what is no JSON, or too long, is a ``ValueError``."""
    if request.headers.get("content-type", "").split(";")[0] != "application/json":
        raise ValueError("expected JSON")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise ValueError("too long")
    tree = json.loads(body or b"{}")
    if not isinstance(tree, dict):
        raise ValueError("expected an object")
    return tree


def _asset(name: str, **filled: str) -> Response:
    suffix = name.rpartition(".")[2]
    if name not in ("review.html", "review.css", "review.js"):
        return PlainTextResponse("There is nothing here.\n", 404)
    text = (files("engine.review") / name).read_text(encoding="utf-8")
    for key, value in filled.items():
        text = text.replace(f"{{{key}}}", value)
    return Response(text, media_type=_TYPES[suffix])


def _cookie(port: int) -> str:
    return f"asterism_review_{port}"  # cookies of a host are shared by its ports
