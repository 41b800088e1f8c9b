"""Runs a server from its first to its last request."""

import asyncio
import socket
import threading
from pathlib import Path

import uvicorn
from absl import logging

from ddad_jax.errors import UserError
from ddad_jax.serving.app import create_app
from ddad_jax.serving.connections import ImpatientProtocol
from ddad_jax.serving.detectors import Detectors
from ddad_jax.serving.metrics import Metrics
from ddad_jax.serving.service import Service
from ddad_jax.serving.settings import ServeSettings
from ddad_jax.settings import SettingError

# The most connections at a time; each takes one of the 1024 files that a process may usually open.
CONNECTIONS = 900
LEAST_TOKEN = 16


def token_of(settings: ServeSettings) -> str:
    """Returns the token that requests must carry; "" if there is no file.

    Raises:
      SettingError: the file cannot be read, or holds no token.
    """
    if not settings.token_file:
        return ""
    try:
        token = Path(settings.token_file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(
            "serve.token_file", f"{settings.token_file} cannot be read ({error}); write one line"
        ) from error
    if len(token) < LEAST_TOKEN or any(character.isspace() for character in token):
        raise SettingError(
            "serve.token_file",
            f"{settings.token_file} holds no token; write one line of {LEAST_TOKEN} characters or "
            "more, such as openssl rand -hex 32 gives",
        )
    return token


def listen(settings: ServeSettings) -> socket.socket:
    """Returns a socket that listens at the address; connections wait until they are accepted.

    Raises:
      SettingError: there is no such address here, or another process listens at it.
    """
    host, port = settings.host, settings.port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=CONNECTIONS)
    except OSError as error:
        raise SettingError(
            "serve.host", f"{host}:{port} cannot be listened on ({error.strerror}); choose another"
        ) from error


def serve(
    listener: socket.socket,
    detectors: Detectors,
    settings: ServeSettings,
    metrics: Metrics,
    token: str,
) -> None:
    """Answers until SIGINT or SIGTERM, finishes the requests that are there, and raises the signal.

    Args:
      listener: from `listen`; is closed.
      detectors: the first ones are compiled while liveness is already answered.
      settings: of the server.
      metrics: of the detectors and the server.
      token: see `create_app`.

    Raises:
      UserError: a detector that was there at first could not be compiled.
    """
    service = Service(detectors, settings, metrics)
    most_seconds = settings.receive_seconds + settings.answer_seconds
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(service, settings, token),
            http=ImpatientProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=settings.receive_seconds,  # type: ignore[arg-type]
            timeout_graceful_shutdown=int(most_seconds) + 1,
        )
    )
    failed: list[Exception] = []

    def keep() -> None:
        try:
            detectors.keep()
        except Exception as error:  # Raised again below, in the main thread.
            failed.append(error)
            server.should_exit = True

    threading.Thread(target=keep, name="loading", daemon=True).start()
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    logging.info("serving %s at http://%s:%d/", ", ".join(detectors.names), shown, port)
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        detectors.stop()
    if failed:
        raise UserError(f"a detector cannot be compiled here ({failed[0]})") from failed[0]
