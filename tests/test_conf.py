"""`WS_SUPPORT`: what it says when nothing is said, and how it is read."""

from __future__ import annotations

import re

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from ws_support.asgi import WebSocketSupport
from ws_support.conf import Options, get_options
from ws_support.middleware.heartbeat import Heartbeat
from ws_support.middleware.origin import OriginValidator


def test_without_the_setting_every_option_has_its_default(settings):
    del settings.WS_SUPPORT
    settings.ALLOWED_HOSTS = ["client.com"]
    assert get_options() == Options(allowed_hosts=("client.com",))


def test_a_key_replaces_its_default_and_no_other(settings):
    settings.WS_SUPPORT = {"KEEP_ALIVE_INTERVAL": 30.5}
    options = get_options()
    assert options.keep_alive_interval == 30.5
    assert options.keep_alive_timeout == Options().keep_alive_timeout


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
def test_origins_may_come_in_any_collection(settings, kind):
    settings.WS_SUPPORT = {"ALLOWED_ORIGINS": kind(["https://client.com"])}
    assert get_options().allowed_origins == ("https://client.com",)


@pytest.mark.parametrize(
    "setting",
    [
        {"KEEP_ALIVE_INTERVAL": None},
        {"KEEP_ALIVE_INTERVAL": 0},
        {"KEEP_ALIVE_TIMEOUT": None},
        {"HEARTBEAT_INTERVAL": 0.5},
        {"HEARTBEAT_MESSAGE": None},
        {"ALLOWED_ORIGINS": []},
        {"ALLOWED_ORIGINS": ["null", "*", ".client.com", "http://[::1]:8000"]},
        {"ALLOWED_ORIGIN_REGEXES": [r"https://.*", re.compile("x")]},
    ],
)
def test_what_the_documentation_allows_is_taken(settings, setting):
    settings.WS_SUPPORT = setting
    get_options()


def test_overridden_settings_are_read_again(settings):
    settings.WS_SUPPORT = {}
    before = get_options()
    assert get_options() is before
    with override_settings(WS_SUPPORT={"HEARTBEAT_INTERVAL": 7}):
        assert get_options().heartbeat_interval == 7
    with override_settings(ALLOWED_HOSTS=["client.com"]):
        assert get_options().allowed_hosts == ("client.com",)
    assert get_options() == before


def test_in_debug_without_hosts_this_machine_is_allowed_as_in_django(settings):
    settings.DEBUG = True
    settings.ALLOWED_HOSTS = []
    assert get_options().allowed_hosts == (".localhost", "127.0.0.1", "[::1]")


def test_without_debug_and_hosts_nobody_is_allowed(settings):
    settings.DEBUG = False
    settings.ALLOWED_HOSTS = []
    assert get_options().allowed_hosts == ()


def test_a_host_that_django_could_not_match_admits_nobody(settings):
    hosts = ["client.com", "not a host", "*.client.com", "https://other.com", "null", None]
    settings.ALLOWED_HOSTS = hosts
    settings.WS_SUPPORT = {}
    rules = get_options().origin_rules()
    assert rules.allows("https://client.com")
    for origin in ("https://a.client.com", "https://other.com", "null"):
        assert not rules.allows(origin)


def test_settings_that_cannot_be_used_stop_the_application_with_every_reason(settings):
    settings.WS_SUPPORT = {"KEEP_ALIVE_INTERVAL": -1, "MAX_MESSAGE_SIZ": 5}
    with pytest.raises(ImproperlyConfigured) as error:
        WebSocketSupport(None)
    assert str(error.value).splitlines() == [
        'WS_SUPPORT["KEEP_ALIVE_INTERVAL"] is -1, which is out of range.'
        " Write a number of seconds from 0, or None for no pings.",
        "WS_SUPPORT has no key 'MAX_MESSAGE_SIZ'. Did you mean 'MAX_MESSAGE_SIZE'?",
    ]


def test_an_argument_that_cannot_be_used_is_named_when_the_middleware_is_made():
    with pytest.raises(ImproperlyConfigured) as error:
        Heartbeat(None, interval=-1)
    assert str(error.value).startswith("Heartbeat(): interval is -1, which is out of range.")
    with pytest.raises(ImproperlyConfigured) as error:
        OriginValidator(None, ["https://client.com/path"])
    assert str(error.value) == (
        "OriginValidator(): allowed_origins holds 'https://client.com/path', which is not an"
        ' origin: scheme://host[:port] and nothing else. Write "https://client.com".'
    )
