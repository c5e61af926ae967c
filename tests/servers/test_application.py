"""The project's application, as `runasgi` hands it to a server."""

from __future__ import annotations

import asyncio

import pytest
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from channels.sessions import CookieMiddleware
from django.core.asgi import get_asgi_application

from tests.harness import BOUND, free_port, runasgi_to_its_end
from ws_support.servers._run.application import Application


async def lifespan(application, *messages: str) -> list[str]:
    """What comes for a server that sends these, and then the application's end."""
    queue: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    for message in messages:
        queue.put_nowait({"type": f"lifespan.{message}"})
    answers = []

    async def send(message):
        answers.append(message["type"].removeprefix("lifespan."))

    scope = {"type": "lifespan"}
    await asyncio.wait_for(Application(application, ())(scope, queue.get, send), BOUND)
    return answers


async def test_an_application_that_knows_no_lifespan_is_answered_for():
    async def application(scope, receive, send):
        raise ValueError("Django can only handle ASGI/HTTP connections, not lifespan.")

    answers = await lifespan(application, "startup", "shutdown")
    assert answers == ["startup.complete", "shutdown.complete"]


async def test_so_is_one_that_finds_out_when_it_has_listened():
    async def application(scope, receive, send):
        await receive()
        raise KeyError("lifespan")

    answers = await lifespan(application, "startup", "shutdown")
    assert answers == ["startup.complete", "shutdown.complete"]


async def test_an_application_with_a_lifespan_answers_for_itself():
    async def application(scope, receive, send):
        for _ in range(2):
            message = await receive()
            await send({"type": f"{message['type']}.complete"})

    answers = await lifespan(application, "startup", "shutdown")
    assert answers == ["startup.complete", "shutdown.complete"]


@pytest.mark.parametrize(
    "application",
    [
        ProtocolTypeRouter({}),
        URLRouter([]),
        CookieMiddleware(URLRouter([])),
        AllowedHostsOriginValidator(URLRouter([])),
        get_asgi_application(),
    ],
    ids=["types", "paths", "cookies", "origins", "Django"],
)
async def test_what_channels_and_django_raise_for_an_unknown_scope_is_no_failure(application):
    answers = await lifespan(application, "startup", "shutdown")
    assert answers == ["startup.complete", "shutdown.complete"]


@pytest.mark.parametrize("error", [NotImplementedError(), AssertionError(), KeyError("path")])
async def test_nor_is_what_routers_of_other_makers_raise(error):
    async def application(scope, receive, send):
        raise error

    answers = await lifespan(application, "startup", "shutdown")
    assert answers == ["startup.complete", "shutdown.complete"]


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no pool"),
        KeyError("DATABASE_URL"),
        KeyError(),
        ValueError("no pool"),
        AssertionError("no pool"),
    ],
    ids=repr,
)
async def test_a_lifespan_that_raises_has_failed_and_the_log_says_why(caplog, error, listens):
    async def application(scope, receive, send):
        if listens:
            await receive()
        raise error

    assert await lifespan(application, "startup") == ["startup.failed"]
    [record] = caplog.records
    assert (record.name, record.levelname) == ("ws_support.servers", "ERROR")
    assert record.exc_info[1] is error


async def test_an_error_that_speaks_of_scopes_is_a_failure_when_it_has_listened(caplog):
    async def application(scope, receive, send):
        await receive()
        raise ValueError("The scope of the OAuth token is wrong.")

    assert await lifespan(application, "startup") == ["startup.failed"]
    assert "The lifespan of ASGI_APPLICATION has failed." in caplog.text


@pytest.mark.parametrize("listens", [False, True])
async def test_one_that_raises_after_its_start_has_failed_at_the_end(caplog, listens):
    async def application(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        if listens:
            await receive()
        raise RuntimeError("later")

    answers = await lifespan(application, "startup", "shutdown")
    assert answers == ["startup.complete", "shutdown.failed"]
    assert "later" in caplog.text


async def test_what_it_raises_when_it_has_said_that_it_failed_is_its_own(caplog):
    async def application(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no pool"})
        raise RuntimeError("said already")

    with pytest.raises(RuntimeError, match="said already"):
        await lifespan(application, "startup")
    assert caplog.records == []


async def test_a_prefix_is_put_before_the_path_also_where_a_server_has_no_raw_path(settings):
    settings.FORCE_SCRIPT_NAME = "/app"
    scopes = []

    async def application(scope, receive, send):
        scopes.append(scope)

    scope = {"type": "websocket", "path": "/ws"}
    await Application(application, ())(scope, None, None)
    (scope,) = scopes
    assert list(scope.pop("extensions")) == ["ws_support.direct"]
    assert scope == {"type": "websocket", "path": "/app/ws", "root_path": "/app"}


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn", "granian", "daphne"])
def test_no_server_warns_of_a_lifespan_that_is_not_there(serve, name):
    server = serve(asgi_server=name)
    with server.connect():
        pass
    assert server.stop() == 0
    assert "lifespan" not in server.log().lower()


@pytest.mark.parametrize(
    ("name", "workers", "application"),
    [
        ("uvicorn", 1, "without_a_start"),
        ("uvicorn", 2, "without_a_pool"),
        ("hypercorn", 1, "without_a_pool"),
        ("hypercorn", 2, "without_a_start"),
        ("granian", 1, "without_a_start"),
        ("granian", 1, "without_a_pool"),
        # Granian by itself goes on to replace a worker that fails this late.
        pytest.param("granian", 2, "without_a_pool_after_a_while", marks=pytest.mark.slow),
    ],
)
def test_a_start_that_fails_in_the_lifespan_ends_the_server(name, workers, application):
    result = runasgi_to_its_end(
        *("--server", name, "--workers", workers, "--port", free_port()),
        settings={"ASGI_APPLICATION": f"tests.project.broken.{application}"},
    )
    assert result.returncode != 0
    assert "nothing to start with" in result.stdout + result.stderr
