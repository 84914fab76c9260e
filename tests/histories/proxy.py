"""A TCP proxy whose connections can be dropped, silenced, or led to another server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any

HOST = "127.0.0.1"
CHUNK = 65536


class Gate:
    """One port of the proxy, and the connections through it."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def listen(self) -> None:
        """Begin to accept connections."""
        self._server = await asyncio.start_server(self._accept, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # One that is silent accepts, as a firewall's half-open connection does, and says nothing.
        self._writers.add(writer)
        try:
            await self._open.wait()
            upstream_reader, upstream = await asyncio.open_connection(HOST, self._proxy.target)
        except OSError:
            self._forget(writer)
            return
        self._writers.add(upstream)
        try:
            await asyncio.gather(self._copy(reader, upstream), self._copy(upstream_reader, writer))
        finally:
            self._forget(writer)
            self._forget(upstream)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                # What is under way when the connection falls silent arrives late.
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        self._forget(writer)

    def _forget(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        with contextlib.suppress(OSError, RuntimeError):
            writer.close()

    async def drop(self) -> None:
        """Close every connection."""
        for writer in list(self._writers):
            writer.transport.abort()
            self._writers.discard(writer)

    async def silence(self, silent: bool) -> None:
        """Carry nothing any more, or carry on."""
        if silent:
            self._open.clear()
        else:
            self._open.set()

    async def close(self) -> None:
        """Accept nothing any more and close every connection."""
        if self._server is not None:
            self._server.close()
        await self.drop()


class Proxy:
    """Ports that all lead to one server, in a thread of their own."""

    def __init__(self, target: int) -> None:
        """Lead to a port of this machine."""
        self.target = target
        self._silent = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.gates: list[Gate] = []

    def gate(self) -> Gate:
        """Return a new port."""

        async def make() -> Gate:
            made = Gate(self)
            await made.listen()
            return made

        made: Gate = self._do(make())
        self.gates.append(made)
        if self._silent:
            self.silence(True, made)
        return made

    def lead_to(self, target: int) -> None:
        """Lead to another server from now on; every connection to the old one is closed."""
        self.target = target
        self.drop()

    def drop(self, *gates: Gate) -> None:
        """Close every connection of some ports, or of all."""
        for gate in gates or tuple(self.gates):
            self._do(gate.drop())

    def silence(self, silent: bool, *gates: Gate) -> None:
        """Have some ports, or all with those to come, carry nothing any more; or carry on."""
        self._silent = self._silent if gates else silent
        for gate in gates or tuple(self.gates):
            self._do(gate.silence(silent))

    def remove(self, gate: Gate) -> None:
        """Close a port."""
        self.gates.remove(gate)
        self._do(gate.close())

    def close(self) -> None:
        """Close all ports and end."""
        for gate in list(self.gates):
            self.remove(gate)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
