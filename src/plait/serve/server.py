"""Binds the port first, then runs the application until it is told to stop."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import uvicorn

from plait.errors import BusyError, ConfigError
from plait.serve.app import App


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Taken before a model is loaded, so that a port in use is told at once and cannot be lost meanwhile.

    Raises:
        BusyError: the port is in use.
        ConfigError: the host is not an address of this machine, or the port may not be taken.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port must be between 0 and 65535, not {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise ConfigError(
            f"--host {host!r} is not known; use 127.0.0.1 or an address of this machine"
        ) from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not refused just after a restart
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise BusyError(
                f"port {port} on {host} is in use; choose another with --port, or --port 0 for any free one"
            ) from None
        if error.errno == errno.EACCES:
            raise ConfigError(f"port {port} is reserved to the system; choose one above 1023") from None
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return listener


def address(listener: socket.socket, host: str) -> str:
    """The URL a browser on this machine can open."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://{f'[{name}]' if ':' in name else name}:{listener.getsockname()[1]}"


class Server(uvicorn.Server):
    """uvicorn with two more habits: it tells when it is ready, and ends unfinished answers when it stops."""

    def __init__(self, app: App, *, ready: Callable[[], None] | None = None) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,  # uvicorn's own would close every log handler of the process
            log_level="warning",
            access_log=False,
            ws="none",
            lifespan="on",
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        super().__init__(config)
        self.app, self.ready = app, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        if self.ready is not None and not self.should_exit:
            self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell the clients of unfinished answers, so that their connections close without a wait."""
        self.app.worker.stop()
        await asyncio.sleep(0)
        await super().shutdown(sockets)
