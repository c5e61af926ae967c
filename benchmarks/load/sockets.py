"""WebSocket connections that read when they are told to: every library reads by itself."""

from __future__ import annotations

import asyncio
import socket

from benchmarks import handshake
from benchmarks.handshake import HOST
from benchmarks.load import LoadFailed


async def open_socket(port: int, path: str, room: int | None = None) -> socket.socket:
    """One that has been accepted, and nothing that came after that was read. It has room for about
    `room` bytes that are not read.

    Raises `LoadFailed` when it is refused.
    """
    loop = asyncio.get_running_loop()
    connection = socket.socket()
    connection.setblocking(False)
    if room is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    await loop.sock_connect(connection, (HOST, port))
    await loop.sock_sendall(connection, handshake.request(port, path))
    received = b""
    while b"\r\n\r\n" not in received:
        # Byte by byte: what comes after it is not to be read.
        received += await receive(connection, 1)
    if not handshake.is_accepted(received):
        raise LoadFailed(f"Not accepted: {received[:200]!r}")
    return connection


async def receive(connection: socket.socket, size: int) -> bytes:
    """At most `size` bytes. Raises `LoadFailed` when the server has ended the connection."""
    data = await asyncio.get_running_loop().sock_recv(connection, size)
    if not data:
        raise LoadFailed("The server ended a connection.")
    return data
