"""`manage.py check`: each mistake by name."""

from __future__ import annotations

import pytest
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError

KEYS = [
    "ALLOWED_ORIGINS",
    "ALLOWED_ORIGIN_REGEXES",
    "ALLOW_MISSING_ORIGIN",
    "KEEP_ALIVE_INTERVAL",
    "KEEP_ALIVE_TIMEOUT",
    "HEARTBEAT_INTERVAL",
    "HEARTBEAT_MESSAGE",
    "HEARTBEAT_REPLY",
    "MAX_MESSAGE_SIZE",
]


@pytest.fixture(autouse=True)
def layers(settings):
    backend = "channels_redis.core.RedisChannelLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}


def found(*, deploy: bool = False) -> list[checks.CheckMessage]:
    messages = checks.run_checks(include_deployment_checks=deploy)
    return [message for message in messages if message.id.startswith("ws_support.")]


def test_the_demo_has_nothing_to_complain_of():
    assert found() == []


@pytest.mark.parametrize(
    ("setting", "id_", "message", "hint"),
    [
        (["x"], "E001", "WS_SUPPORT is ['x'], which is not a dictionary.", "Write WS_SUPPORT = {"),
        (None, "E001", "WS_SUPPORT is None, which is not a dictionary.", "Write WS_SUPPORT = {"),
        ({"ORIGIN": 1}, "E002", "WS_SUPPORT has no key 'ORIGIN'.", "The keys are ALLOWED_ORIGINS,"),
        ({7: 1}, "E002", "WS_SUPPORT has no key 7.", "The keys are ALLOWED_ORIGINS,"),
        (
            {"allowed_origins": []},
            "E002",
            "WS_SUPPORT has no key 'allowed_origins'.",
            "Did you mean 'ALLOWED_ORIGINS'?",
        ),
        (
            {"ALLOWED_ORIGINS": "https://client.com"},
            "E003",
            "WS_SUPPORT[\"ALLOWED_ORIGINS\"] is 'https://client.com', which is not a list.",
            'Write a list of origins, for example ["https://client.com"].',
        ),
        (
            {"ALLOWED_ORIGINS": [b"https://client.com"]},
            "E003",
            "WS_SUPPORT[\"ALLOWED_ORIGINS\"] holds b'https://client.com', which is not a string.",
            'Write "https://client.com".',
        ),
        (
            {"ALLOWED_ORIGIN_REGEXES": "x"},
            "E003",
            "WS_SUPPORT[\"ALLOWED_ORIGIN_REGEXES\"] is 'x', which is not a list.",
            "Write a list of regular expressions",
        ),
        (
            {"ALLOWED_ORIGIN_REGEXES": [1]},
            "E003",
            'WS_SUPPORT["ALLOWED_ORIGIN_REGEXES"] holds 1, which is not a regular expression for'
            " text.",
            'Write r"https',
        ),
        (
            {"ALLOW_MISSING_ORIGIN": 1},
            "E003",
            'WS_SUPPORT["ALLOW_MISSING_ORIGIN"] is 1, which is neither True nor False.',
            "Write True or False.",
        ),
        (
            {"KEEP_ALIVE_INTERVAL": "30"},
            "E003",
            "WS_SUPPORT[\"KEEP_ALIVE_INTERVAL\"] is '30', which is not a number of seconds from 0.",
            "Write a number of seconds from 0, or None for no pings.",
        ),
        (
            {"KEEP_ALIVE_INTERVAL": True},
            "E003",
            'WS_SUPPORT["KEEP_ALIVE_INTERVAL"] is True, which is not a number of seconds from 0.',
            "Write a number of seconds from 0, or None for no pings.",
        ),
        (
            {"HEARTBEAT_MESSAGE": 5},
            "E003",
            'WS_SUPPORT["HEARTBEAT_MESSAGE"] is 5, which is not a string.',
            "Write a string.",
        ),
        (
            {"HEARTBEAT_REPLY": None},
            "E003",
            'WS_SUPPORT["HEARTBEAT_REPLY"] is None, which is not a string.',
            "Write a string.",
        ),
        (
            {"MAX_MESSAGE_SIZE": 1e6},
            "E003",
            'WS_SUPPORT["MAX_MESSAGE_SIZE"] is 1000000.0, which is not a whole number of bytes'
            " above 0.",
            "Write a whole number of bytes above 0.",
        ),
        (
            {"MAX_MESSAGE_SIZE": None},
            "E003",
            'WS_SUPPORT["MAX_MESSAGE_SIZE"] is None, which is not a whole number of bytes above 0.',
            "Write a whole number of bytes above 0.",
        ),
        (
            {"KEEP_ALIVE_INTERVAL": -1},
            "E004",
            'WS_SUPPORT["KEEP_ALIVE_INTERVAL"] is -1, which is out of range.',
            "Write a number of seconds from 0, or None for no pings.",
        ),
        (
            {"KEEP_ALIVE_TIMEOUT": 0},
            "E004",
            'WS_SUPPORT["KEEP_ALIVE_TIMEOUT"] is 0, which is out of range.',
            "Write a number of seconds above 0, or None to wait forever.",
        ),
        (
            {"HEARTBEAT_INTERVAL": float("nan")},
            "E004",
            'WS_SUPPORT["HEARTBEAT_INTERVAL"] is nan, which is out of range.',
            "Write a number of seconds above 0, or None for no heartbeat.",
        ),
        (
            {"HEARTBEAT_INTERVAL": float("inf")},
            "E004",
            'WS_SUPPORT["HEARTBEAT_INTERVAL"] is inf, which is out of range.',
            "Write a number of seconds above 0, or None for no heartbeat.",
        ),
        (
            {"MAX_MESSAGE_SIZE": 2**31},
            "E004",
            'WS_SUPPORT["MAX_MESSAGE_SIZE"] is 2147483648, which is out of range.',
            "Write a whole number of bytes above 0.",
        ),
        (
            {"HEARTBEAT_REPLY": "\ud800"},
            "E003",
            "WS_SUPPORT[\"HEARTBEAT_REPLY\"] is '\\ud800', which cannot be sent: half of a"
            " surrogate pair.",
            "Write whole characters.",
        ),
        (
            {"ALLOWED_ORIGIN_REGEXES": ["a{99999999999}"]},
            "E007",
            "WS_SUPPORT[\"ALLOWED_ORIGIN_REGEXES\"] holds 'a{99999999999}', which is not a regular"
            " expression: the repetition number is too large.",
            "Write it as Python's re module reads it",
        ),
        (
            {"ALLOWED_ORIGINS": ["https://client.com/path"]},
            "E005",
            "WS_SUPPORT[\"ALLOWED_ORIGINS\"] holds 'https://client.com/path', which is not an"
            " origin: scheme://host[:port] and nothing else.",
            'Write "https://client.com".',
        ),
        (
            {"ALLOWED_ORIGINS": ["*.client.com"]},
            "E006",
            "WS_SUPPORT[\"ALLOWED_ORIGINS\"] holds '*.client.com', which is a wildcard without a"
            " scheme.",
            'Write "https://*.client.com" for the subdomains under https',
        ),
        (
            {"ALLOWED_ORIGIN_REGEXES": ["("]},
            "E007",
            "WS_SUPPORT[\"ALLOWED_ORIGIN_REGEXES\"] holds '(', which is not a regular expression:"
            " missing ), unterminated subpattern at position 0.",
            "Write it as Python's re module reads it",
        ),
    ],
)
def test_a_mistake_is_one_error_with_its_value_and_a_hint(settings, setting, id_, message, hint):
    settings.WS_SUPPORT = setting
    [error] = found()
    assert error.level == checks.ERROR
    assert error.id == f"ws_support.{id_}"
    assert error.msg == message
    assert error.hint.startswith(hint)


def test_several_mistakes_are_named_at_once(settings):
    settings.WS_SUPPORT = {
        "ALLOWED_ORIGINS": ["https://client.com/", "*.client.com", "https://fine.com"],
        "MAX_MESSAGE_SIZE": 0,
    }
    assert [error.id for error in found()] == [
        "ws_support.E005",
        "ws_support.E006",
        "ws_support.E004",
    ]


@pytest.mark.parametrize("key", KEYS)
def test_a_value_of_any_length_makes_a_short_message(settings, key):
    settings.WS_SUPPORT = {key: object, "ALLOWED_ORIGINS": ["x/" * 10_000]}
    assert all(len(error.msg) < 250 for error in found())


def test_the_command_fails_for_a_mistake(settings):
    settings.WS_SUPPORT = {"MAX_MESSAGE_SIZE": 0}
    with pytest.raises(SystemCheckError, match=r"ws_support\.E004"):
        call_command("check")


def test_deployment_warns_when_every_host_and_so_every_origin_is_allowed(settings):
    settings.ALLOWED_HOSTS = ["*"]
    settings.WS_SUPPORT = {"KEEP_ALIVE_INTERVAL": 30}
    assert [warning.id for warning in found(deploy=True)] == ["ws_support.W001"]
    settings.WS_SUPPORT = {"KEEP_ALIVE_INTERVAL": 30, "ALLOWED_ORIGINS": ["https://client.com"]}
    assert found(deploy=True) == []


@pytest.mark.parametrize("interval", [None, 0, 61, 120])
def test_deployment_warns_when_a_proxy_would_cut_idle_connections(settings, interval):
    settings.WS_SUPPORT = {"KEEP_ALIVE_INTERVAL": interval}
    [warning] = found(deploy=True)
    assert warning.id == "ws_support.W002"
    assert "proxy_read_timeout" in warning.hint


def test_deployment_does_not_warn_of_a_ping_each_minute(settings):
    settings.WS_SUPPORT = {"KEEP_ALIVE_INTERVAL": 60}
    assert found(deploy=True) == []


def test_deployment_warns_when_every_origin_is_allowed(settings):
    settings.WS_SUPPORT = {"KEEP_ALIVE_INTERVAL": 30, "ALLOWED_ORIGINS": ["*"]}
    assert [warning.id for warning in found(deploy=True)] == ["ws_support.W003"]


def test_deployment_leaves_settings_that_cannot_be_read_to_the_errors(settings):
    settings.WS_SUPPORT = {"MAX_MESSAGE_SIZE": 0}
    assert [error.id for error in found(deploy=True)] == ["ws_support.E004"]


def test_deployment_warnings_are_silent_in_development(settings):
    settings.ALLOWED_HOSTS = ["*"]
    settings.WS_SUPPORT = {}
    assert found() == []


@pytest.mark.parametrize(
    ("apps", "other"),
    [
        (["daphne", "ws_support", "django.contrib.staticfiles"], "daphne"),
        (["daphne", "django.contrib.staticfiles", "ws_support"], "daphne"),
        (["django.contrib.staticfiles", "ws_support"], "django.contrib.staticfiles"),
    ],
)
def test_an_application_that_hides_our_runserver_is_warned_of(settings, apps, other):
    settings.INSTALLED_APPS = apps
    warnings = [each for each in found() if each.id == "ws_support.W004"]
    assert len(warnings) == 1
    assert warnings[0].msg.startswith(f"INSTALLED_APPS has ws_support after {other},")
    assert warnings[0].hint == 'Put "ws_support" first in INSTALLED_APPS.'


def test_a_project_without_an_asgi_application_is_warned_of(settings):
    del settings.ASGI_APPLICATION
    [warning] = found()
    assert warning.id == "ws_support.W005"


@pytest.mark.parametrize(
    "layers", [{}, {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}]
)
def test_deployment_warns_when_processes_do_not_hear_each_other(settings, layers):
    settings.CHANNEL_LAYERS = layers
    settings.WS_SUPPORT = {"KEEP_ALIVE_INTERVAL": 30}
    [warning] = found(deploy=True)
    assert warning.id == "ws_support.W010"
    assert warning.msg.startswith("CHANNEL_LAYERS has no layer between processes")
