"""The options of hubs: `WS_SUPPORT["HUBS"]`, and `options` of one hub."""

from __future__ import annotations

from dataclasses import fields
from io import StringIO
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from tests.hubs.clients import Web, router
from tests.hubs.recording import new_hub
from ws_support._hub_options import OPTIONS, HubOptions, hub_options_problems
from ws_support.conf import get_options
from ws_support.hubs import HubRouter
from ws_support.servers._run.banner import hubs

GOOD = {
    "HANDSHAKE_TIMEOUT": 0.5,
    "KEEP_ALIVE_INTERVAL": 1,
    "CLIENT_TIMEOUT_INTERVAL": 2.5,
    "MAXIMUM_RECEIVE_MESSAGE_SIZE": None,
    "MAXIMUM_PARALLEL_INVOCATIONS_PER_CLIENT": 4,
    "MAXIMUM_STREAMS_PER_CLIENT": 1,
    "STREAM_BUFFER_CAPACITY": 1,
    "ENABLE_DETAILED_ERRORS": True,
    "TRANSPORTS": ["LongPolling"],
    "MINIMUM_PROTOCOL_VERSION": 1,
    "ALLOW_STATEFUL_RECONNECTS": True,
    "STATEFUL_RECONNECT_BUFFER_SIZE": 1,
    "DISCONNECT_TIMEOUT": 1,
    "POLL_TIMEOUT": 1,
    "CLOSE_TIMEOUT": 0.1,
    "TRANSPORT_SEND_TIMEOUT": 1,
    "TRANSPORT_MAX_BUFFER_SIZE": 1,
    "APPLICATION_MAX_BUFFER_SIZE": 1,
}

WRONG: list[tuple[str, Any]] = [
    *[
        (key, value)
        for key in GOOD
        if key
        not in (
            "ALLOW_STATEFUL_RECONNECTS",
            "ENABLE_DETAILED_ERRORS",
            "TRANSPORTS",
            "MINIMUM_PROTOCOL_VERSION",
        )
        for value in (0, -1, "15", True, 2**40, [], float("nan"), float("inf"))
    ],
    *[(key, None) for key in GOOD if key != "MAXIMUM_RECEIVE_MESSAGE_SIZE"],
    *[(key, 1.5) for key in GOOD if "SIZE" in key or "PER_CLIENT" in key],
    *[
        (key, value)
        for key in ("ALLOW_STATEFUL_RECONNECTS", "ENABLE_DETAILED_ERRORS")
        for value in (0, 1, "yes")
    ],
    *[("MINIMUM_PROTOCOL_VERSION", value) for value in (-1, 2, 0.5, "1", True)],
    *[("TRANSPORTS", value) for value in ("WebSockets", [], ["websockets"], [1], [[]], 5)],
]


def test_the_defaults_are_those_of_net():
    assert HubOptions() == HubOptions(
        handshake_timeout=15,
        keep_alive_interval=15,
        client_timeout_interval=30,
        maximum_receive_message_size=32_768,
        maximum_parallel_invocations_per_client=1,
        maximum_streams_per_client=100,
        stream_buffer_capacity=10,
        enable_detailed_errors=False,
        transports=("WebSockets", "ServerSentEvents", "LongPolling"),
        minimum_protocol_version=0,
        allow_stateful_reconnects=False,
        stateful_reconnect_buffer_size=100_000,
        disconnect_timeout=15,
        poll_timeout=90,
        close_timeout=5,
        transport_send_timeout=10,
        transport_max_buffer_size=65_536,
        application_max_buffer_size=65_536,
    )
    assert get_options().hubs == HubOptions()


def test_each_option_has_a_key_and_a_description():
    assert list(OPTIONS) == [each.name.upper() for each in fields(HubOptions)]
    assert set(GOOD) == set(OPTIONS)
    assert all(each["description"].endswith(".") for each in OPTIONS.values())


@pytest.mark.parametrize("key", GOOD)
def test_each_option_is_taken_from_the_settings_and_from_the_hub(key):
    value = tuple(GOOD[key]) if key == "TRANSPORTS" else GOOD[key]
    assert list(hub_options_problems({key: GOOD[key]})) == []
    with override_settings(WS_SUPPORT={"HUBS": {key: GOOD[key]}}):
        assert getattr(get_options().hubs, key.lower()) == value
    from ws_support.hubs import description_of

    assert getattr(description_of(new_hub(**{key: GOOD[key]})).options, key.lower()) == value


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_wrong_value_is_an_error_that_names_key_and_value(key, value):
    [problem] = hub_options_problems({key: value})
    assert problem.key == f'["{key}"]'
    assert problem.id in ("E003", "E004")
    assert value == [] or str(value)[:10].strip("[]'") in problem.message
    assert problem.hint.startswith("Write ")
    with pytest.raises(ImproperlyConfigured) as raised:
        HubRouter(None, {"hub": new_hub(**{key: value})})
    text = f'tests.hubs.recording.Recording.options["{key}"] '
    assert str(raised.value).startswith(text)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("KEEPALIVE_INTERVAL", "Did you mean 'KEEP_ALIVE_INTERVAL'?"),
        ("keep_alive_interval", "Did you mean 'KEEP_ALIVE_INTERVAL'?"),
        ("XYZ", f"The keys are {', '.join(OPTIONS)}."),
        (5, f"The keys are {', '.join(OPTIONS)}."),
    ],
)
def test_a_key_that_there_is_not_is_an_error_with_a_hint(key, hint):
    [problem] = hub_options_problems({key: 1})
    assert (problem.id, problem.key, problem.hint) == ("E002", "", hint)
    assert repr(key) in problem.message


@pytest.mark.parametrize("value", [None, [], "KEEP_ALIVE_INTERVAL", 15])
def test_what_is_no_dictionary_is_an_error(value):
    [problem] = hub_options_problems(value)
    assert (problem.id, problem.hint) == ("E003", 'Write {"KEEP_ALIVE_INTERVAL": 15}.')
    assert repr(value) in problem.message

    class Broken(new_hub()):
        options = value

    with pytest.raises(ImproperlyConfigured, match="is not a dictionary"):
        HubRouter(None, {"hub": Broken})


@pytest.mark.parametrize(
    ("hubs", "texts"),
    [
        ({"POLL_TIMEOUT": -1}, ["E004", 'WS_SUPPORT["HUBS"]["POLL_TIMEOUT"] is -1']),
        ({"POL_TIMEOUT": 1}, ["E002", "'POL_TIMEOUT'", "Did you mean 'POLL_TIMEOUT'?"]),
        ([1], ["E003", "[1], which is not a dictionary."]),
    ],
)
def test_manage_py_check_says_what_is_wrong(hubs, texts):
    with override_settings(WS_SUPPORT={"HUBS": hubs}):
        with pytest.raises(SystemCheckError) as raised:
            call_command("check", stdout=StringIO(), stderr=StringIO())
        for text in texts:
            assert text in str(raised.value)


def test_manage_py_check_is_silent_about_good_options():
    with override_settings(WS_SUPPORT={"HUBS": GOOD}):
        call_command("check", stdout=StringIO(), stderr=StringIO())


@pytest.mark.usefixtures("problems")
async def test_changed_settings_hold_for_new_requests():
    web = Web(router(new_hub(POLL_TIMEOUT=5)))
    assert len((await web.negotiate())["availableTransports"]) == 3
    with override_settings(WS_SUPPORT={"ALLOWED_ORIGINS": None, "HUBS": GOOD}):
        assert len((await web.negotiate())["availableTransports"]) == 1
    assert len((await web.negotiate())["availableTransports"]) == 3


def test_the_banner_names_the_transports_that_need_a_layer_between_processes(settings):
    settings.CHANNEL_LAYERS = {}
    assert "long polling need a layer between the processes" in hubs(2)["hubs"]
    assert hubs(1) == {}
