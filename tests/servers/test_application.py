"""The project's application, as `runasgi` hands it to a server."""

from __future__ import annotations

import asyncio

import pytest

from tests.harness import BOUND, free_port, runasgi_to_its_end
from ws_support.servers.application import Application


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


async def test_what_it_raises_after_its_answer_is_its_own():
    async def application(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise RuntimeError("later")

    with pytest.raises(RuntimeError, match="later"):
        await lifespan(application, "startup", "shutdown")


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn", "granian", "daphne"])
def test_no_server_warns_of_a_lifespan_that_is_not_there(serve, name):
    server = serve(asgi_server=name)
    with server.connect():
        pass
    assert server.stop() == 0
    assert "lifespan" not in server.log().lower()


@pytest.mark.parametrize(
    ("name", "workers"),
    [("uvicorn", 1), ("uvicorn", 2), ("hypercorn", 1), ("hypercorn", 2), ("granian", 1)],
)
def test_a_start_that_fails_in_the_lifespan_ends_the_server(name, workers):
    result = runasgi_to_its_end(
        *("--server", name, "--workers", workers, "--port", free_port()),
        settings={"ASGI_APPLICATION": "tests.project.broken.without_a_start"},
    )
    assert result.returncode != 0
    assert "nothing to start with" in result.stdout + result.stderr
