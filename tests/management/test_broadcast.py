"""`manage.py broadcast`."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.harness import BOUND
from tests.redis import broadcast_from_the_shell
from tests.test_broadcast import subscribed

pytestmark = pytest.mark.alone

NOWHERE = {"CHANNEL_LAYERS": {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer"}}}


@pytest.mark.slow
def test_the_command_says_how_many_processes_took_it(two_servers, connected_settings):
    with ExitStack() as stack:
        one, two = (subscribed(stack, server, "all") for server in two_servers)
        done = broadcast_from_the_shell(connected_settings, "all", "from the shell")
        assert done.stdout == "2 processes took it.\n", done.stderr
        assert one.recv(BOUND) == two.recv(BOUND) == "from the shell"
        two.close()
        done = broadcast_from_the_shell(connected_settings, "all", '{"a": 1}', "--json")
        assert done.stdout == "1 process took it.\n", done.stderr
        done = broadcast_from_the_shell(connected_settings, "nobody's", "message")
        assert done.stdout.startswith("No process took it within 1 s"), done.stderr


@pytest.mark.parametrize("text", ["{", "NaN", '{"a": -Infinity}', "[" * 100_000])
def test_the_command_refuses_what_is_no_json(text):
    done = broadcast_from_the_shell(NOWHERE, "all", text, "--json")
    assert (done.returncode, "is not valid JSON" in done.stderr) == (1, True)


def test_the_command_says_that_redis_is_away(redis, connected_settings):
    redis.stop()
    done = broadcast_from_the_shell(connected_settings, "all", "message")
    assert done.returncode == 1
    assert "CommandError: The broadcast under 'all' was not taken" in done.stderr


def test_the_command_refuses_to_talk_to_itself():
    layers = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    done = broadcast_from_the_shell({"CHANNEL_LAYERS": layers}, "all", "message")
    assert done.returncode == 1
    assert "Nobody outside this process would hear it" in done.stderr
