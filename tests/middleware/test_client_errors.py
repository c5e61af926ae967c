"""Where connections may go."""

from __future__ import annotations

import pytest
from channels.routing import URLRouter
from django.urls import path
from websockets.exceptions import InvalidStatus

from tests.harness import SERVERS
from ws_support.asgi import WebSocketSupport
from ws_support.testing import Peer


@pytest.mark.parametrize("unknown", ["/", "/nope", "/ws/", "/ws/more", "/nested/nope", "/%ff%00"])
def test_an_unknown_path_is_refused_with_404_and_no_traceback(demo, unknown):
    with pytest.raises(InvalidStatus) as error:
        demo.connect(unknown)
    assert error.value.response.status_code == 404
    assert error.value.response.body == b"There is no WebSocket at this path.\n"


def test_an_unknown_path_is_a_warning_and_a_signal(serve):
    server = serve()
    with pytest.raises(InvalidStatus):
        server.connect("/nope")
    event = server.wait_for_event("rejected", "/nope")
    assert (event["status"], event["rule"], event["origin"]) == (404, "path", server.origin)
    server.wait_for_log("To serve it, add a route to the URLRouter in asgi.py.")
    server.wait_for_log("The path of a hub is that in HubRouter, without a slash at its end.")


def test_a_nested_router_leads_to_its_consumer(demo):
    with demo.connect("/nested/ws") as socket:
        socket.send("hello")
        assert socket.recv() == "hello"


@pytest.mark.parametrize("command", [name for name in SERVERS if name != "runserver"])
def test_other_servers_refuse_an_unknown_path_without_a_traceback(serve, command):
    server = serve(command=command)
    with pytest.raises(InvalidStatus) as error:
        server.connect("/nope")
    assert error.value.response.status_code == 404


async def test_an_error_of_a_consumer_is_not_taken_for_an_unknown_path():
    async def consumer(scope, receive, send):
        raise ValueError("No route found for path, says the consumer")

    application = WebSocketSupport(URLRouter([path("ws", consumer)]), allow_missing_origin=True)
    with pytest.raises(ValueError, match="says the consumer"):
        async with Peer(application, "/ws"):
            pass


async def test_an_unknown_path_of_another_protocol_stays_an_error():
    application = WebSocketSupport(URLRouter([]))
    with pytest.raises(ValueError, match="No route found"):
        await application({"type": "http", "path": "/nope"}, None, None)
