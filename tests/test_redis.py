"""Broadcasts between processes, through a real Redis that goes away and comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from channels_redis.core import RedisChannelLayer

from tests.conftest import need_program
from tests.harness import ASGI_SERVERS, BOUND, ROOT, until
from tests.redis import CORE, PUBSUB, Redis
from tests.test_broadcast import asked, subscribed, tell
from ws_support.link import group_of


@pytest.fixture(scope="module")
def redis_program():
    return need_program("redis-server")


@pytest.fixture
def redis(redis_program, tmp_path):
    redis = Redis(redis_program, tmp_path)
    redis.start()
    yield redis
    redis.stop()


@pytest.fixture(params=[CORE, PUBSUB], ids=["core", "pubsub"])
def layers(request, redis):
    return redis.layers(request.param)


@pytest.fixture
def two_servers(serve, layers):
    return [serve(asgi_server=name, CHANNEL_LAYERS=layers) for name in ("uvicorn", "granian")]


def comes(publisher, topic, reader):
    """Broadcast until a message has come, as it does once everybody is back."""
    for number in range(1000):
        tell(publisher, "broadcast", topic=topic, text=f"new {number}")
        publisher.recv(BOUND)
        try:
            while not reader.recv(0.2).startswith("new "):
                pass
        except TimeoutError:
            continue
        return
    raise AssertionError


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


def test_every_process_gets_a_message_once(two_servers):
    with ExitStack() as stack:
        one, two = (subscribed(stack, server, "all") for server in two_servers)
        publisher = subscribed(stack, two_servers[0], "publisher")
        tell(publisher, "broadcast many", topic="all", count=1100, pause=0.001)
        for reader in (one, two):
            assert [reader.recv(BOUND) for _ in range(1100)] == [f"{n} " for n in range(1100)]
        assert publisher.recv(BOUND) == "done"
        tell(publisher, "broadcast", topic="all", text="the end")
        assert one.recv(BOUND) == two.recv(BOUND) == "the end"


async def test_what_redis_hands_out_twice_is_sent_once(redis, serve):
    server = serve(asgi_server="uvicorn", CHANNEL_LAYERS=redis.layers())
    layer = RedisChannelLayer(hosts=[f"redis://127.0.0.1:{redis.port}"])
    message = {"type": "ws_support.published", "topic": "all", "text": "twice", "id": "1"}
    with ExitStack() as stack:
        reader = subscribed(stack, server, "all")
        await layer.group_send(group_of("all"), message)
        await layer.group_send(group_of("all"), message)
        await layer.group_send(group_of("all"), {"type": "somebody.else"})
        await layer.group_send(group_of("all"), {**message, "text": "once", "id": "2"})
        assert reader.recv(BOUND) == "twice"
        assert reader.recv(BOUND) == "once"
    await layer.close_pools()


@pytest.mark.parametrize("topic", ["é𝄞", "x" * 1000, "a b/c"])
def test_any_string_is_a_topic(two_servers, topic):
    one, two = two_servers
    with ExitStack() as stack:
        publisher = subscribed(stack, one, "publisher")
        reader = subscribed(stack, two, "reader")
        tell(reader, "subscribe", topic=topic)
        assert reader.recv(BOUND) == "subscribed"
        tell(publisher, "broadcast", topic=topic, text="message")
        assert reader.recv(BOUND) == "message"


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


def test_who_subscribes_first_while_redis_is_away_hears_all_once_it_is_there(redis, two_servers):
    redis.stop()
    with ExitStack() as stack:
        one, two = (subscribed(stack, server, "all", "live/subscribed") for server in two_servers)
        redis.start()
        publisher = subscribed(stack, two_servers[0], "publisher")
        comes(publisher, "all", one)
        comes(publisher, "all", two)


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


def test_when_a_process_is_killed_the_subscribers_of_others_miss_nothing(two_servers):
    killed, other = two_servers
    with ExitStack() as stack:
        publisher = subscribed(stack, other, "publisher")
        reader = subscribed(stack, other, "all")
        gone = subscribed(stack, killed, "all")
        tell(publisher, "broadcast many", topic="all", count=300, pause=0.005)
        assert gone.recv(BOUND) == "0 "
        killed.process.kill()
        assert [reader.recv(BOUND) for _ in range(300)] == [f"{n} " for n in range(300)]


def test_memberships_are_renewed_before_they_expire(serve, redis):
    layers = redis.layers(group_expiry=3)
    server = serve(asgi_server="uvicorn", CHANNEL_LAYERS=layers)
    with ExitStack() as stack:
        reader = subscribed(stack, server, "all")
        until_later = time.monotonic() + 8
        number = 0
        while time.monotonic() < until_later:
            tell(reader, "broadcast", topic="all", text=str(number))
            assert {reader.recv(BOUND), reader.recv(BOUND)} == {"broadcast", str(number)}
            number += 1
            time.sleep(0.1)


def test_nothing_is_left_in_redis_when_the_last_has_gone(redis, serve, layers):
    server = serve(asgi_server="uvicorn", CHANNEL_LAYERS=layers)
    with ExitStack() as stack:
        publisher = stack.enter_context(server.connect("/topics/publisher"))
        publisher.recv(BOUND)
        for _ in range(100):
            tell(publisher, "subscribe", topic="restless")
            assert publisher.recv(BOUND) == "subscribed"
            tell(publisher, "unsubscribe", topic="restless")
            assert publisher.recv(BOUND) == "unsubscribed"
        assert asked(publisher)["topics"] == 1
    for _ in until("nothing in Redis", lambda: left_in(redis)):
        if not left_in(redis):
            break


def left_in(redis) -> list[str]:
    """Names of groups and channels."""
    answer = redis.ask("KEYS", "*") + redis.ask("PUBSUB", "CHANNELS", "*")
    return [line for line in answer.split("\r\n") if line and line[0] not in "*$"]


@pytest.mark.parametrize("name", ASGI_SERVERS)
def test_a_server_with_subscribers_stops_in_good_order(serve, redis, name):
    server = serve(asgi_server=name, CHANNEL_LAYERS=redis.layers())
    with ExitStack() as stack:
        reader = subscribed(stack, server, "all")
        stack.enter_context(server.connect("/live/subscribed/all"))
        comes(reader, "all", reader)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(BOUND) == 0
    assert left_in(redis) == []
    assert "Traceback" not in server.log()
    assert "destroyed" not in server.log()


def broadcast_from_the_shell(layers, *arguments):
    return subprocess.run(
        [sys.executable, "manage.py", "broadcast", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.project.settings",
            "TEST_SETTINGS": json.dumps({"CHANNEL_LAYERS": layers}),
        },
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )


def test_the_command_says_how_many_processes_took_it(two_servers, layers):
    with ExitStack() as stack:
        one, two = (subscribed(stack, server, "all") for server in two_servers)
        done = broadcast_from_the_shell(layers, "all", "from the shell")
        assert done.stdout == "2 processes took it.\n", done.stderr
        assert one.recv(BOUND) == two.recv(BOUND) == "from the shell"
        two.close()
        done = broadcast_from_the_shell(layers, "all", '{"a": 1}', "--json")
        assert done.stdout == "1 process took it.\n", done.stderr
        done = broadcast_from_the_shell(layers, "nobody's", "message")
        assert done.stdout.startswith("No process took it within 1 s"), done.stderr


def test_the_command_refuses_what_is_no_json(layers):
    done = broadcast_from_the_shell(layers, "all", "{", "--json")
    assert (done.returncode, "is not valid JSON" in done.stderr) == (1, True)


def test_the_command_says_that_redis_is_away(redis, layers):
    redis.stop()
    done = broadcast_from_the_shell(layers, "all", "message")
    assert done.returncode == 1
    assert "CommandError: The broadcast under 'all' was not taken" in done.stderr


def test_the_command_refuses_to_talk_to_itself():
    layers = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    done = broadcast_from_the_shell(layers, "all", "message")
    assert done.returncode == 1
    assert "Nobody outside this process would hear it" in done.stderr


def test_the_server_says_where_broadcasts_go(serve, redis):
    server = serve(asgi_server="uvicorn", CHANNEL_LAYERS=redis.layers())
    assert "broadcasts  through RedisChannelLayer to every process" in server.log()
    server = serve(asgi_server="uvicorn", arguments=("--workers", "2"))
    assert "broadcasts  within each of the 2 processes by itself" in server.log()
