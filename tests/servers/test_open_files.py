"""A server that has as many open files as it may."""

from __future__ import annotations

import resource
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import ASGI_SERVERS, BOUND
from tests.servers.test_behaviours import children

SAID = "No more files can be opened"


@pytest.mark.slow
@pytest.mark.parametrize("name", ASGI_SERVERS)
def test_a_server_without_files_says_so_in_one_line(serve, name):
    server = serve(asgi_server=name, measured=True, WS_SUPPORT={"SHUTDOWN_TIMEOUT": 1})
    with server.connect() as socket:  # Some files are opened only then.
        socket.send("before")
        assert socket.recv(BOUND) == "before"
    processes = (server.process.pid, *children(server.process.pid))
    for pid in processes:
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (files + 5, most))
    with ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(server.raw())
        server.wait_for_log(SAID)
    for pid in processes:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
    with server.connect(open_timeout=10) as socket:
        socket.send("after")
        assert socket.recv(BOUND) == "after"
    assert server.log().count(SAID) == 1
    assert "out of system resource" not in server.log()
