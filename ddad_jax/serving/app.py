"""The routes of the server, and who may use them."""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import ddad_jax
from ddad_jax.serving import inference
from ddad_jax.serving.answers import (
    DRAWN,
    ENCLOSED,
    FILES,
    file_response,
    json_response,
    row_response,
)
from ddad_jax.serving.bodies import Bodies
from ddad_jax.serving.loaded import Loaded
from ddad_jax.serving.metrics import Metrics
from ddad_jax.serving.refusal import Refusal, busy
from ddad_jax.serving.service import Service
from ddad_jax.serving.settings import ServeSettings

# The status if the client is gone; nobody reads it.
GONE = 499
# Seconds after which to ask again for a detector that is being compiled.
COMPILING_SECONDS = 5.0
PAGE = files("ddad_jax.serving") / "page"
PAGE_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; script-src 'self'; "
    "style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
# Routes without a token: a page that shows nothing before it has one, and what orchestrators ask.
OPEN = (*PAGE_FILES, "/v2/health/live", "/v2/health/ready")
# The media type, besides image/*, that a photograph may be sent as. Pages of other sites cannot
# send these types unless the server allows it.
BINARY = "application/octet-stream"


def create_app(service: Service, settings: ServeSettings, token: str) -> Starlette:
    """Returns the application.

    Args:
      service: is started and stopped with it.
      settings: of the server.
      token: what requests must carry; empty: nothing.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.stop)

    middleware = [Middleware(Counted, metrics=service.metrics)]
    if settings.origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.origins,
                allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type", LENGTH],
                expose_headers=[LENGTH, "retry-after"],
            )
        )
    if token:
        middleware.append(Middleware(Guarded, token=token))
    app = Starlette(
        routes=[
            *(Route(path, page) for path in PAGE_FILES),
            Route("/detectors", detectors),
            Route("/detectors/{name}", about),
            Route("/detectors/{name}", judge, methods=["POST"]),
            Route("/metrics", metrics),
            Route("/v2", server),
            Route("/v2/health/live", live),
            Route("/v2/health/ready", ready),
            Route("/v2/models/{name}", model),
            Route("/v2/models/{name}/ready", model_ready),
            Route("/v2/models/{name}/infer", infer, methods=["POST"]),
        ],
        middleware=middleware,
        exception_handlers={
            Refusal: _refused,
            HTTPException: _not_found,
            ClientDisconnect: _gone,
            Exception: _failed,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service, app.state.bodies = service, Bodies(settings)
    return app


LENGTH = "inference-header-content-length"


class Guarded:
    """Answers only requests that carry the token, and open routes."""

    def __init__(self, app: ASGIApp, token: str):
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                line = "a token is needed: send Authorization: Bearer <token>"
                response = json_response({"error": line}, 401, **{"WWW-Authenticate": "Bearer"})
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Counted:
    """Counts every request."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = GONE, time.monotonic()

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("endpoint"), "__name__", "none")
            self._metrics.answered(route, status, time.monotonic() - began)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # It is called for nothing else.
    return json_response({"error": error.line}, error.status, **error.headers)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # It is called for nothing else.
    line = f"{request.method} {request.url.path}: {error.detail}"
    return json_response({"error": line[:300]}, error.status_code, **(error.headers or {}))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=GONE)


async def _failed(request: Request, error: Exception) -> Response:
    return json_response({"error": "something went wrong; the server's log says what"}, 500)


async def page(request: Request) -> Response:
    """Returns a file of the web page."""
    name, kind = PAGE_FILES[request.url.path]
    return Response((PAGE / name).read_bytes(), headers=PAGE_HEADERS, media_type=kind)


async def detectors(request: Request) -> Response:
    """Returns the detectors that can be asked."""
    served = _service(request).detectors.served
    return json_response({"detectors": [each.about for each in served.values()]})


async def about(request: Request) -> Response:
    """Returns a detector's description."""
    return json_response(_detector(request).about)


async def judge(request: Request) -> Response:
    """Returns what a detector says about the photograph in the body."""
    service, loaded = _service(request), _detector(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != BINARY and not kind.startswith("image/"):
        line = f"Content-Type: {kind or 'none'}: send the file itself, as image/png or the like"
        raise Refusal(415, line)
    query = request.query_params
    for name in query:
        if name not in ("output", "with", "threshold"):
            raise Refusal(400, f"{name}: is not known; there are output, with, threshold")
    output = query.get("output", "row")
    enclosed = [name for name in query.get("with", "").split(",") if name]
    for name, given, known in (
        *(("with", each, ENCLOSED) for each in enclosed),
        ("output", output, ("row", *FILES)),
    ):
        if given not in known:
            raise Refusal(400, f"{name}: '{given}' is not one of {', '.join(known)}")
    threshold = inference.threshold_of(query["threshold"]) if "threshold" in query else None
    service.require_room()
    drawn = any(name in DRAWN for name in (output, *enclosed))
    async with request.app.state.bodies.of(request) as body:
        found = service.predict(loaded, {"photograph": body}, threshold, drawn)
        (prediction,) = await _unless_gone(request, found)
    if output == "row":
        return await service.in_thread(row_response, prediction, loaded.name, enclosed)
    return await service.in_thread(file_response, prediction, output)


async def metrics(request: Request) -> Response:
    """Returns all metrics, as Prometheus reads them."""
    content = generate_latest(_service(request).metrics.registry)
    return Response(content, media_type=CONTENT_TYPE_LATEST)


async def server(request: Request) -> Response:
    """Returns the server's description; from here on by the Open Inference Protocol."""
    version = ddad_jax.__version__
    return json_response(
        {"name": "ddad_jax", "version": version, "extensions": ["binary_tensor_data"]}
    )


async def live(request: Request) -> Response:
    """Says that the server is alive."""
    return json_response({"live": True})


async def ready(request: Request) -> Response:
    """Says whether all detectors can be asked; status 503 if not."""
    is_ready = _service(request).detectors.is_ready
    return json_response({"ready": is_ready}, 200 if is_ready else 503)


async def model(request: Request) -> Response:
    """Returns a detector's inputs and outputs."""
    return json_response(inference.metadata(_detector(request).name))


async def model_ready(request: Request) -> Response:
    """Says that a detector can be asked; refuses if it cannot."""
    return json_response({"name": _detector(request).name, "ready": True})


async def infer(request: Request) -> Response:
    """Returns what a detector says about tensors."""
    service, loaded = _service(request), _detector(request)
    service.require_room()
    async with request.app.state.bodies.of(request) as body:
        asked = await service.in_thread(inference.parse, body, request.headers.get(LENGTH))
        drawn = any(name in inference.DRAWN for name in asked.outputs)
        found = service.predict(loaded, asked.photographs, asked.threshold, drawn)
        predictions = await _unless_gone(request, found)
    content, length = await service.in_thread(inference.respond, loaded.name, asked, predictions)
    if length is None:
        return Response(content, media_type="application/json")
    return Response(content, headers={LENGTH: str(length)}, media_type=BINARY)


def _service(request: Request) -> Service:
    return request.app.state.service


def _detector(request: Request) -> Loaded:
    name, there = request.path_params["name"], _service(request).detectors
    if name in there.served:
        return there.served[name]
    if name in there.names:
        raise busy(f"{name} is being compiled; try again later", COMPILING_SECONDS)
    raise Refusal(404, f"there is no detector {name[:100]!r}; there are {', '.join(there.served)}")


async def _unless_gone(request: Request, work: Awaitable[Any]) -> Any:
    """Returns the result of the work; cancels it if the client disconnects."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
