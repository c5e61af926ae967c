"""What a client asks for over plain HTTP, byte for byte."""

from __future__ import annotations

from http.client import HTTPConnection

from tests.harness import BOUND, Server
from tests.hub_requests import HANDSHAKE, HubRequests


def polling(server: Server) -> HubRequests:
    """A client that is connected by long polling."""
    requests = HubRequests(
        lambda: HTTPConnection(server.host, server.port, timeout=BOUND), server.origin, "/hub"
    )
    assert requests.request("GET") == (200, b"")
    assert requests.request("POST", HANDSHAKE) == (200, b"")
    assert requests.request("GET") == (200, b"{}\x1e")
    return requests


def test_a_client_that_says_close_and_deletes_is_told_of_no_error(serve):
    server = serve(asgi_server="uvicorn")
    polls = polling(server)
    assert polls.request("POST", b'{"type":7}\x1e') == (200, b"")
    assert polls.request("DELETE") == (202, b"")
    assert server.wait_for_event("on_disconnected()", "/hub")["error"] is None
    assert polls.request("DELETE") == (202, b"")
    assert polls.request("GET") == (204, b"")


def test_a_client_that_deletes_is_not_waited_for(serve):
    # Nobody fetches the answer to the Close message.
    server = serve(asgi_server="uvicorn", WS_SUPPORT={"HUBS": {"CLOSE_TIMEOUT": 3600}})
    polls = polling(server)
    polls.request("POST", b'{"type":7}\x1e')
    polls.request("DELETE")
    server.wait_for_event("on_disconnected()", "/hub")


def test_what_is_sent_after_the_end_is_refused(serve):
    server = serve(asgi_server="uvicorn")
    polls = polling(server)
    server.wait_for_event("on_connected()", "/hub")
    invocation = b'{"type":1,"target":"Nothing","arguments":[],"invocationId":"1"}\x1e'
    assert polls.request("POST", invocation) == (200, b"")
    assert polls.request("GET")[0] == 200  # From now on, everything is read at once.
    assert polls.request("POST", b'{"type":7}\x1e') == (200, b"")
    assert polls.request("POST", b'{"type":6}\x1e')[0] == 404


def test_only_who_has_a_token_may_delete(serve):
    polls = polling(serve(asgi_server="uvicorn"))
    polls.path = "/hub?id=nonsense"
    assert polls.request("DELETE") == (404, b"No Connection with that ID")
