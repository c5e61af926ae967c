"""Broadcasts between processes when Redis goes away, and comes back."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import BOUND
from tests.test_broadcast import subscribed, tell
from tests.test_redis import comes

# channels_redis 4.3 logs some of its own when Redis goes away.
pytestmark = [pytest.mark.websocket_tracebacks, pytest.mark.alone, pytest.mark.long]


def heard(socket):
    """What is there already."""
    messages = []
    try:
        while True:
            messages.append(socket.recv(0.5))
    except TimeoutError:
        return messages


def cpu_time(server) -> float:
    """Seconds, of the process and its children."""
    pid = server.process.pid
    pids = [str(pid), *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    stats = [Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split() for each in pids]
    ticks = sum(int(stat[11]) + int(stat[12]) for stat in stats)
    return ticks / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_sockets_stay_open_while_redis_is_away_and_subscriptions_are_back_with_it(
    redis, two_servers, ending
):
    with ExitStack() as stack:
        one, two = (subscribed(stack, server, "all") for server in two_servers)
        comes(one, "all", two)
        heard(one)
        redis.stop(ending)
        gone_at = time.monotonic()
        used = [cpu_time(server) for server in two_servers]
        while time.monotonic() - gone_at < 10:
            start = time.monotonic()
            tell(one, "broadcast", topic="all", text="lost")
            assert one.recv(BOUND).startswith("BroadcastError: The broadcast under 'all' was not")
            assert time.monotonic() - start < 6
            for socket in (one, two):
                tell(socket, "echo", text="here")
                assert socket.recv(BOUND) == "here"
            time.sleep(0.5)
        # Who comes now hears all once Redis is back.
        late = subscribed(stack, two_servers[1], "late", "live/subscribed")
        for server, before in zip(two_servers, used, strict=True):
            assert cpu_time(server) - before < 3  # Of 10 s; coverage is measured, too.
        redis.start()
        comes(one, "all", two)
        heard(one)
        comes(two, "all", one)
        comes(one, "late", late)
        for server in two_servers:
            server.wait_for_log("The channel layer is back")
            assert server.log().count("The channel layer is back") == 1
            assert server.events("disconnect()") == []


@pytest.mark.slow
def test_who_subscribes_first_while_redis_is_away_hears_all_once_it_is_there(redis, two_servers):
    redis.stop()
    with ExitStack() as stack:
        one, two = (subscribed(stack, server, "all", "live/subscribed") for server in two_servers)
        redis.start()
        publisher = subscribed(stack, two_servers[0], "publisher")
        comes(publisher, "all", one)
        comes(publisher, "all", two)


@pytest.mark.slow
def test_subscriptions_are_restored_when_redis_has_forgotten_them(redis, two_servers):
    with ExitStack() as stack:
        one, two = (subscribed(stack, server, "all") for server in two_servers)
        comes(one, "all", two)
        redis.ask("FLUSHALL")
        comes(one, "all", two)


@pytest.mark.slow
def test_a_redis_that_does_not_answer_is_an_error_within_six_seconds(redis, two_servers):
    with ExitStack() as stack:
        one, two = (subscribed(stack, server, "all") for server in two_servers)
        redis.pause()
        start = time.monotonic()
        tell(one, "broadcast", topic="all", text="hangs")
        assert "no answer within 5 s" in one.recv(BOUND)
        assert time.monotonic() - start < 6
        redis.go_on()
        comes(one, "all", two)
