"""Servers and connections that die silently, as behind a firewall or when a cable is pulled."""

from __future__ import annotations

import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from support.processes.services import RedisServer


class Wire:
    """A way to the server on which connections can be cut silently. New ones pass."""

    def __init__(self, server: RedisServer) -> None:
        self._server = (server.host, server.port)
        self._listener = socket.create_server((server.host, 0))
        self._ways: list[tuple[socket.socket, socket.socket, threading.Event]] = []
        self.url = f"redis://{server.host}:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, addresses: Collection[str] | None = None) -> None:
        """Let nothing more pass on the connections that there are, or on those that the server sees so."""
        for _, far, whole in self._ways:
            host, port = far.getsockname()
            if addresses is None or f"{host}:{port}" in addresses:
                whole.clear()

    def mend(self) -> None:
        """Let pass what was sent on them in the meantime, and all that follows."""
        for _, _, whole in self._ways:
            whole.set()

    def close(self) -> None:
        """End all connections."""
        self._listener.close()
        self.mend()
        for near, far, _ in self._ways:
            near.close()
            far.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._server)
                whole = threading.Event()
                whole.set()
                self._ways.append((near, far, whole))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(*ends, whole), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket, whole: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                whole.wait()
                target.sendall(data)
            whole.wait()
            target.shutdown(socket.SHUT_WR)


@contextmanager
def gone_without_a_word(server: RedisServer) -> Iterator[None]:
    """Stop the server for the block; its connections stay as they are, as when a cable is pulled."""
    server.container.pause()
    try:
        yield
    finally:
        server.container.unpause()
