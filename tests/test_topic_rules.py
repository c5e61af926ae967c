"""Topics with rules: patterns, who may do what, the settings, and what `manage.py check` says."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from io import StringIO
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings
from django.urls import converters, resolvers
from hypothesis import given
from hypothesis import strategies as st

from tests.deploy.conftest import clean_environment
from tests.harness import ROOT
from ws_support._topic_options import OPTIONS
from ws_support._topics import rules
from ws_support._topics.messages import MAX_LENGTH
from ws_support._topics.rules import Rules, rules_of
from ws_support.checks import check_project, check_topics
from ws_support.topics import Topic, topic


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """The rules of a test of its own."""
    monkeypatch.setattr(rules, "_registry", rules._Registry())


def registered(pattern: str, **attributes: Any) -> Any:
    """A class of rules with this pattern: `tests.test_topic_rules.Rooms`."""
    name = attributes.pop("class_name", "Rooms")
    topic_class = type(name, (Topic,), {"__module__": __name__, **attributes})
    topic_class.__qualname__ = name
    return topic(pattern)(topic_class)


def in_settings(pattern: str, **options: Any) -> override_settings:
    return override_settings(WS_SUPPORT={"TOPICS": {pattern: options}})


def found(name: str) -> Rules:
    """The rules of a topic that has some."""
    of_topic = rules_of(name)
    assert of_topic is not None
    return of_topic


class Room(Topic):
    history = 200
    history_seconds = 60.5
    presence = True

    async def may_subscribe(self, user, room_id):
        return (user, room_id) == ("ann", 7)

    async def may_publish(self, user, message, room_id):
        return (user, message, room_id) == ("ann", "hello", 7)

    async def snapshot(self, user, room_id):
        return {"room": room_id, "for": user}


def new_room(pattern: str = "room/<int:room_id>") -> type[Topic]:
    return topic(pattern)(type("Room", (Room,), {}))


# Functions that the settings name.


async def may_read(user, name):
    return (user, name) == ("ann", "sport")


def may_write(user, message, name):
    return (user, message, name) == ("ann", "hello", "sport")


def state(user, name):
    return [user, name]


HERE = "tests.test_topic_rules"
not_a_function = 5


# Names


def test_the_arguments_give_the_name_of_a_topic_and_the_name_gives_them_back():
    room = new_room()
    assert room.name(room_id=7) == "room/7"
    assert found("room/7").kwargs == {"room_id": 7}
    assert found("room/7").topic_class is room


def test_a_pattern_has_to_match_the_whole_name():
    new_room()
    for name in ("room/7/", "room/7\n", "a/room/7", "room/", "room", "room/x", "", "Room/7"):
        assert rules_of(name) is None


def test_a_pattern_without_parameters_is_one_topic():
    news = registered("news (all)")
    assert news.name() == "news (all)"
    assert found("news (all)").kwargs == {}
    assert rules_of("news all") is None


def test_a_topic_has_one_name():
    new_room()
    for name in ("room/07", "room/0", "room/7"):
        assert (rules_of(name) is None) is (name == "room/07")


def test_a_number_of_any_length_does_no_harm():
    new_room()
    assert rules_of("room/" + "9" * 9000) is None


def test_names_are_not_quoted():
    assert registered("room/<name>").name(name="a b%é") == "room/a b%é"


@pytest.mark.parametrize("kwargs", [{}, {"room": 7}, {"room_id": 7, "more": 1}])
def test_other_arguments_than_those_of_the_pattern_are_a_type_error(kwargs):
    with pytest.raises(TypeError, match=r"arguments of 'room/<int:room_id>' are \(room_id\): got"):
        new_room().name(**kwargs)


@pytest.mark.parametrize("value", [-1, "x", None, "07", 1.5, "7\n", ""])
def test_an_argument_that_does_not_fit_is_a_value_error(value):
    with pytest.raises(ValueError, match="No topic of 'room/<int:room_id>' has the arguments"):
        new_room().name(room_id=value)


def test_text_that_fits_is_taken_as_reverse_takes_it():
    assert new_room().name(room_id="7") == "room/7"


def test_an_argument_cannot_reach_into_its_neighbour():
    pair = registered("<slug:one>-<slug:two>")
    assert pair.name(one="a-b", two="c") == "a-b-c"
    with pytest.raises(ValueError, match="'a-b-c' would not be read like that"):
        pair.name(one="a", two="b-c")


def test_a_name_that_is_longer_than_a_topic_may_be_is_a_value_error():
    with pytest.raises(ValueError, match="up to 10000 characters"):
        registered("<path:name>").name(name="x" * (MAX_LENGTH + 1))


def test_a_class_without_a_pattern_has_no_names():
    with pytest.raises(ImproperlyConfigured, match=f"{HERE}.Room has no pattern. Write @topic"):
        Room.name(room_id=7)


def test_an_argument_may_have_the_name_of_pythons_own():
    assert registered("<int:cls>/<int:self>").name(cls=1, self=2) == "1/2"


VALUES = {
    "int": st.integers(0, 10**9),
    "slug": st.from_regex(r"\A[-a-zA-Z0-9_]{1,5}\Z"),
    "str": st.text(min_size=1, max_size=5).filter(lambda text: "/" not in text),
    "path": st.text(min_size=1, max_size=5),
    "uuid": st.uuids(),
}


@st.composite
def patterns(draw) -> tuple[str, dict[str, Any]]:
    """A pattern, and arguments for it."""
    kwargs, parts = {}, []
    for index, kind in enumerate(draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=3))):
        parts += [draw(st.sampled_from(["", "-", "/", "a", ".", "%s", "{}"])), f"<{kind}:p{index}>"]
        kwargs[f"p{index}"] = draw(VALUES[kind])
    return "".join(parts), kwargs


def renewed() -> None:
    rules._registry = rules._Registry()  # type: ignore[assignment]


@given(patterns())
def test_a_name_is_read_with_the_arguments_that_it_was_made_of(example):
    pattern, kwargs = example
    renewed()
    topic_class = registered(pattern)
    try:
        name = topic_class.name(**kwargs)
    except ValueError:
        return
    assert found(name).kwargs == kwargs


@given(patterns(), st.text(max_size=8))
def test_what_a_pattern_matches_is_the_name_that_it_gives(example, text):
    pattern, kwargs = example
    renewed()
    topic_class = registered(pattern)
    for name in (text, "".join(map(str, kwargs.values())), "-".join(map(str, kwargs.values()))):
        of_topic = rules_of(name)
        assert of_topic is None or topic_class.name(**of_topic.kwargs) == name


class Upper:
    """A converter that reads what it would not write."""

    regex = "[a-z]+"

    def to_python(self, value):
        return value.upper()

    def to_url(self, value):
        if value == "NEVER":
            raise ValueError
        return value if value == "ODD" else value.lower()


@pytest.fixture
def register_upper(monkeypatch):
    """Register `Upper` in the way of `register_converter()`, until the test ends."""

    def clear() -> None:
        converters.get_converters.cache_clear()
        resolvers._route_to_regex.cache_clear()

    def register() -> None:
        monkeypatch.setitem(converters.REGISTERED_CONVERTERS, "upper", Upper())
        clear()

    yield register
    monkeypatch.undo()
    clear()


def test_a_converter_of_the_project_reads_and_writes(register_upper):
    register_upper()
    rooms = registered("room/<upper:name>")
    assert found("room/red").kwargs == {"name": "RED"}
    assert rooms.name(name="RED") == "room/red"
    assert rules_of("room/odd") is None
    assert rules_of("room/never") is None


def test_a_converter_is_found_when_urls_py_registers_it(
    register_upper, tmp_path, monkeypatch, settings
):
    (tmp_path / "urls_with_converter.py").write_text(
        f"import {HERE} as here\nhere.register()\nurlpatterns = []\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys.modules[HERE], "register", register_upper, raising=False)
    settings.ROOT_URLCONF = "urls_with_converter"
    registered("room/<upper:name>")
    assert check_topics(None) == []
    assert found("room/red").kwargs == {"name": "RED"}


# Which rules


def test_a_topic_without_rules_costs_one_comparison(monkeypatch):
    assert rules_of("prices") is None

    def fail():
        raise AssertionError

    monkeypatch.setattr(rules, "get_options", fail)
    monkeypatch.setattr(rules._Table, "rules_of", lambda *_: fail())
    assert rules_of("prices") is None


def test_a_rule_that_is_registered_later_counts():
    assert rules_of("room/7") is None
    new_room()
    assert found("room/7").history == 200


def test_the_first_pattern_that_matches_decides_and_classes_come_before_settings():
    first = registered("room/<int:room_id>", class_name="First")
    registered("room/<slug:name>", class_name="Second", history=2)
    with in_settings("<path:name>", history=3):
        assert found("room/7").topic_class is first
        assert found("room/red").history == 2
        assert found("other/red").history == 3
        assert found("other/red").topic_class is None


def test_names_of_this_package_match_no_pattern():
    everything = registered("<path:name>")
    assert rules_of("ws_support.presence:room/7") is None
    assert rules_of("ws_supported") is not None
    with pytest.raises(ValueError, match="No topic of"):
        everything.name(name="ws_support.presence:room/7")


def test_the_rules_of_a_name_are_kept_for_a_bounded_number_of_short_names():
    new_room()
    assert rules_of("room/7") is rules_of("room/7")
    for number in range(5000):
        rules_of(f"room/{number}")
    rules_of("x" * 1000)
    table = rules._registry.table
    assert table._kept.cache_info().currsize == 4096
    before = table._kept.cache_info()
    rules_of("x" * 1000)
    assert table._kept.cache_info() == before


def test_a_subclass_may_have_a_pattern_of_its_own_and_the_rules_of_its_parent():
    room = new_room()
    other = topic("other/<int:room_id>")(type("Other", (room,), {"history": 5}))
    assert (room.name(room_id=1), other.name(room_id=1)) == ("room/1", "other/1")
    assert (found("room/1").history, found("other/1").history) == (200, 5)
    assert found("other/1").presence is True


@pytest.mark.parametrize(
    ("decorate", "message"),
    [
        (lambda: topic("room")(int), "'room'.* stands above a subclass of Topic: got <class 'int"),
        (lambda: topic("room")(Topic), "stands above a subclass of Topic: got <class 'ws_supp"),
        (lambda: topic("room")(Room()), "stands above a subclass of Topic: got <tests"),
        (lambda: topic("room")(lambda: None), "stands above a subclass of Topic: got <function"),
        (lambda: topic(Room), "with a string: got <class "),
        (lambda: topic(b"room"), "with a string: got b'room'"),
        (lambda: topic("other")(new_room()), "Room has a pattern, and gets another one: 'other'"),
    ],
)
def test_the_decorator_stands_above_a_subclass_with_one_pattern(decorate, message):
    with pytest.raises(TypeError, match=message):
        decorate()


# Who may


async def test_by_default_nobody_may_do_anything_and_nothing_is_kept():
    registered("room/<int:room_id>")
    room = found("room/7")
    assert (room.history, room.history_seconds, room.presence) == (0, 600, False)
    assert await room.may_subscribe("ann") is False
    assert await room.may_publish("ann", "hello") is False
    assert room.has_snapshot is False
    assert await room.snapshot("ann") is None


async def test_what_is_not_replaced_says_the_same_to_a_subclass_that_asks():
    class Polite(Topic):
        def may_subscribe(self, user, room_id):
            return super().may_subscribe(user, room_id)

        def may_publish(self, user, message, room_id):
            return super().may_publish(user, message, room_id)

        def snapshot(self, user, room_id):
            return super().snapshot(user, room_id)

    topic("room/<int:room_id>")(Polite)
    room = found("room/7")
    assert await room.may_subscribe("ann") is False
    assert await room.may_publish("ann", "hello") is False
    assert await room.snapshot("ann") is None


async def test_a_class_says_what_is_kept_and_who_may():
    new_room()
    seven, eight = found("room/7"), found("room/8")
    assert (seven.history, seven.history_seconds, seven.presence) == (200, 60.5, True)
    assert await seven.may_subscribe("ann") is True
    assert await seven.may_subscribe("bob") is False
    assert await eight.may_subscribe("ann") is False
    assert await seven.may_publish("ann", "hello") is True
    assert await seven.may_publish("ann", "bye") is False
    assert eight.has_snapshot is True
    assert await eight.snapshot("ann") == {"room": 8, "for": "ann"}


async def test_a_function_that_is_no_coroutine_function_runs_in_a_thread():
    threads = []

    def note(result):
        threads.append(threading.get_ident())
        return result

    registered(
        "room/<int:room_id>",
        may_subscribe=lambda self, user, room_id: note(True),
        may_publish=lambda self, user, message, room_id: note(True),
        snapshot=lambda self, user, room_id: note({"room": room_id}),
    )
    room = found("room/7")
    assert await room.may_subscribe("ann") is True
    assert await room.may_publish("ann", "hello") is True
    assert await room.snapshot("ann") == {"room": 7}
    assert len(threads) == 3
    assert threading.get_ident() not in threads


async def forbidden(*_: Any) -> bool:
    await asyncio.sleep(0)
    return False


async def test_a_coroutine_that_nobody_has_awaited_is_awaited_and_not_taken_for_a_yes():
    async def without_await(self, user, room_id):
        return forbidden(user)

    registered("lambda/<int:room_id>", may_subscribe=lambda self, user, room_id: forbidden(user))
    registered("room/<int:room_id>", may_subscribe=without_await)
    assert await found("lambda/7").may_subscribe("ann") is False
    assert await found("room/7").may_subscribe("ann") is False


@pytest.mark.parametrize("answer", [None, 1, "yes", (False, "because"), []])
async def test_an_answer_that_is_neither_true_nor_false_is_a_type_error(answer):
    async def may(*arguments, **kwargs):
        return answer

    registered("room/<int:room_id>", may_subscribe=may, may_publish=may)
    for asked in (found("room/7").may_subscribe("ann"), found("room/7").may_publish("ann", "x")):
        with pytest.raises(TypeError, match=r"may\(\) has to return True or False: got "):
            await asked


async def test_a_permission_that_is_an_object_is_named_in_an_error():
    class Permission:
        def __call__(self, user, room_id):
            return "yes"

    registered("room/<int:room_id>", may_subscribe=Permission())
    with pytest.raises(TypeError, match=r"Permission object at .* has to return True or False"):
        await found("room/7").may_subscribe("ann")


async def test_what_the_code_of_the_project_raises_is_not_caught():
    class Broken(Topic):
        async def may_subscribe(self, user, room_id):
            raise KeyError(room_id)

        def may_publish(self, user, message, room_id):
            raise LookupError(message)

        def snapshot(self, user, room_id):
            raise OSError(user)

    topic("room/<int:room_id>")(Broken)
    with pytest.raises(KeyError, match="7"):
        await found("room/7").may_subscribe("ann")
    with pytest.raises(LookupError, match="hello"):
        await found("room/7").may_publish("ann", "hello")
    with pytest.raises(OSError, match="ann"):
        await found("room/7").snapshot("ann")


async def test_one_instance_serves_all_topics_of_a_class():
    seen = []

    class Counted(Topic):
        def __init__(self):
            seen.append(self)

        async def may_subscribe(self, user, room_id):
            return self is seen[0]

    topic("room/<int:room_id>")(Counted)
    assert seen == []
    assert await found("room/7").may_subscribe("ann")
    assert await found("room/8").may_subscribe("ann")
    assert len(seen) == 1


# The settings


async def test_the_settings_have_the_rules_of_a_pattern():
    options = {
        "history": 100,
        "history_seconds": 60,
        "presence": True,
        "may_subscribe": f"{HERE}.may_read",
        "may_publish": f"{HERE}.may_write",
        "snapshot": f"{HERE}.state",
    }
    assert options.keys() == OPTIONS.keys()
    with in_settings("news/<slug:name>", **options):
        assert check_topics(None) == []
        sport, music = found("news/sport"), found("news/music")
        assert (sport.history, sport.history_seconds, sport.presence) == (100, 60, True)
        assert await sport.may_subscribe("ann") is True
        assert await music.may_subscribe("ann") is False
        assert await sport.may_publish("ann", "hello") is True
        assert await sport.may_publish("ann", "bye") is False
        assert sport.has_snapshot is True
        assert await sport.snapshot("ann") == ["ann", "sport"]
    assert rules_of("news/sport") is None


async def test_the_settings_may_say_that_there_is_no_snapshot():
    with in_settings("news", snapshot=None):
        assert found("news").has_snapshot is False


@pytest.mark.parametrize("may", [True, False])
async def test_the_settings_may_admit_all_or_nobody(may):
    with in_settings("news", may_subscribe=may, may_publish=may):
        assert await found("news").may_subscribe(None) is may
        assert await found("news").may_publish(None, "hello") is may


async def test_the_settings_have_the_defaults_of_a_class():
    with in_settings("news"):
        news = found("news")
        assert (news.history, news.history_seconds, news.presence) == (0, 600, False)
        assert await news.may_subscribe("ann") is False
        assert await news.may_publish("ann", "hello") is False
        assert news.has_snapshot is False


@override_settings(WS_SUPPORT={})
def test_overridden_settings_are_read_again():
    assert rules_of("news") is None
    with in_settings("news", history=1):
        assert found("news").history == 1
        with in_settings("news", history=2):
            assert found("news").history == 2
        with override_settings(DEBUG=True):
            assert found("news").history == 1
    assert rules_of("news") is None


def test_a_function_of_the_settings_is_imported_when_it_is_used(tmp_path, monkeypatch):
    (tmp_path / "late_rules.py").write_text("async def may_read(user): return True\n")
    monkeypatch.syspath_prepend(tmp_path)
    with in_settings("news", may_subscribe="late_rules.may_read"):
        assert rules_of("other") is None
        assert "late_rules" not in sys.modules
        assert found("news")
        assert "late_rules" in sys.modules
    del sys.modules["late_rules"]


@pytest.mark.parametrize(
    ("topics", "id_", "message", "hint"),
    [
        (["news"], "E003", "['TOPICS'] is ['news'], which is not a dictionary.", 'Write {"news/'),
        (
            {5: {}},
            "E003",
            "['TOPICS'] has the pattern 5, which is not a string.",
            'Write "news/<slug:name>".',
        ),
        (
            {"news": 100},
            "E003",
            "['TOPICS']['news'] is 100, which is not a dictionary.",
            'Write {"history": 100, ',
        ),
        (
            {"news": {"HISTORY": 100}},
            "E002",
            "['TOPICS']['news'] has no key 'HISTORY'.",
            "Did you mean 'history'?",
        ),
        (
            {"news": {5: 100}},
            "E002",
            "['TOPICS']['news'] has no key 5.",
            "The keys are history, history_seconds, presence, may_subscribe, may_publish, snapshot",
        ),
        (
            {"news": {"history": -1}},
            "E004",
            "['TOPICS']['news']['history'] is -1, which is out of range.",
            "Write a whole number of messages from 0.",
        ),
        (
            {"news": {"may_subscribe": "everybody"}},
            "E003",
            "['TOPICS']['news']['may_subscribe'] is 'everybody', which is neither True nor False"
            " nor a dotted path.",
            'Write True, False, or "app.rules.may_read".',
        ),
        (
            {"news": {"may_publish": None}},
            "E003",
            "['TOPICS']['news']['may_publish'] is None, which is neither True nor False nor a"
            " dotted path.",
            'Write True, False, or "app.rules.may_read".',
        ),
        (
            {"news": {"snapshot": True}},
            "E003",
            "['TOPICS']['news']['snapshot'] is True, which is not a dotted path.",
            'Write "app.rules.state_of", or None for no snapshot.',
        ),
    ],
)
def test_a_mistake_in_the_settings_is_one_error_with_its_value_and_a_hint(
    topics, id_, message, hint
):
    with override_settings(WS_SUPPORT={"TOPICS": topics}):
        with pytest.raises(SystemCheckError) as raised:
            call_command("check", stdout=StringIO(), stderr=StringIO())
        text = str(raised.value)
        assert f"(ws_support.{id_}) WS_SUPPORT{message}" in text.replace('"', "'")
        assert f"HINT: {hint}" in text
        assert "1 issue" in text
        with pytest.raises(ImproperlyConfigured) as raised:
            rules_of("news")
        assert str(raised.value).replace('"', "'").startswith(f"WS_SUPPORT{message}")


# What is wrong with classes, and what only a loaded project shows


WRONG_PATTERNS = [
    ("room/<foo:x>", "cannot be read: URL route 'room/<foo:x>' uses invalid converter 'foo'."),
    ("room/<int:a b>", "cannot be read: URL route 'room/<int:a b>' cannot contain whitespace"),
    ("room/<int:1>", "cannot be read: URL route 'room/<int:1>' uses parameter name '1'"),
    ("<int:x>/<int:x>", "cannot be read: redefinition of group name 'x'"),
    ("room/<int:x", "has a bracket without its counterpart."),
    ("room/int:x>", "has a bracket without its counterpart."),
    ("ws_support.<x>", 'begins with "ws_support.", as topics of this package do'),
    ("x" * (MAX_LENGTH + 1), "can match no topic. A topic has up to 10000 characters: got 10001"),
    ("\ud800", "can match no topic. The topic holds half of a surrogate pair"),
]


@pytest.mark.parametrize(("pattern", "message"), WRONG_PATTERNS)
def test_a_pattern_that_cannot_be_used_is_an_error_and_its_use_says_the_same(pattern, message):
    room = registered(pattern, may_subscribe=5)
    [error] = check_topics(None)
    assert error.id == "ws_support.E014"
    assert error.msg.startswith(f"@topic({pattern!r}"[:90])
    assert f" of {HERE}.Rooms {message}" in error.msg
    assert len(error.msg) < 500
    for use in (lambda: rules_of("other"), lambda: room.name(x=1)):
        with pytest.raises(ImproperlyConfigured) as raised:
            use()
        assert str(raised.value) == f"{error.msg} {error.hint}"
    with in_settings(pattern):
        messages = [each.msg for each in check_topics(None) if each.msg.startswith("WS_SUPPORT")]
        assert len(messages) == 1
        assert message in messages[0]
        assert messages[0].startswith('WS_SUPPORT["TOPICS"][')


def test_an_unknown_converter_has_a_hint_with_those_that_there_are():
    registered("room/<foo:x>")
    [error] = check_topics(None)
    assert error.hint.endswith("The converters are int, path, slug, str, uuid.")


@pytest.mark.parametrize(
    ("name", "value", "id_", "message"),
    [
        ("history", -1, "E004", "is -1, which is out of range."),
        ("history", 1.5, "E003", "is 1.5, which is not a whole number of messages from 0."),
        ("history", True, "E003", "is True, which is not a whole number of messages from 0."),
        ("history", None, "E003", "is None, which is not a whole number of messages from 0."),
        ("history_seconds", 0, "E004", "is 0, which is out of range."),
        ("history_seconds", float("nan"), "E004", "is nan, which is out of range."),
        ("history_seconds", "600", "E003", "is '600', which is not a number of seconds above 0."),
        ("presence", 1, "E003", "is 1, which is neither True nor False."),
    ],
)
def test_a_wrong_value_of_a_class_is_an_error_and_its_use_says_the_same(name, value, id_, message):
    room = registered("room/<int:room_id>", **{name: value})
    [error] = check_topics(None)
    assert (error.id, error.msg) == (f"ws_support.{id_}", f"{HERE}.Rooms.{name} {message}")
    assert error.hint.startswith("Write ")
    with pytest.raises(ImproperlyConfigured) as raised:
        rules_of("room/7")
    assert str(raised.value) == f"{error.msg} {error.hint}"
    assert rules_of("other") is None
    assert room.name(room_id=7) == "room/7"


def nothing():
    """Takes nothing."""


@pytest.mark.parametrize(
    ("name", "value", "message", "hint"),
    [
        (
            "may_subscribe",
            True,
            "is True, which is no function.",
            "Write: async def may_subscribe(self, user, room_id).",
        ),
        (
            "may_subscribe",
            lambda self, user: True,
            "cannot be called with (user, room_id): got an unexpected keyword argument 'room_id'.",
            "Write: async def may_subscribe(self, user, room_id).",
        ),
        (
            "may_publish",
            lambda self, user, room_id: True,
            "cannot be called with (user, message, room_id): multiple values for argument",
            "Write: async def may_publish(self, user, message, room_id).",
        ),
        (
            "snapshot",
            lambda self, user, room_id, more: None,
            "cannot be called with (user, room_id): missing a required argument: 'more'.",
            "Write: async def snapshot(self, user, room_id).",
        ),
        (
            "snapshot",
            staticmethod(nothing),
            "cannot be called with (user, room_id): too many positional arguments.",
            "Write: async def snapshot(self, user, room_id).",
        ),
    ],
)
def test_a_method_that_cannot_be_called_is_an_error_and_its_use_says_the_same(
    name, value, message, hint
):
    registered("room/<int:room_id>", **{name: value})
    [error] = check_topics(None)
    assert error.id == "ws_support.E016"
    assert error.msg.startswith(f"{HERE}.Rooms.{name} {message}")
    assert error.hint == hint
    with pytest.raises(ImproperlyConfigured) as raised:
        rules_of("room/7")
    assert str(raised.value) == f"{error.msg} {error.hint}"


@pytest.mark.parametrize(
    "method",
    [
        lambda self, user, room_id: True,
        lambda self, user, *, room_id: True,
        lambda self, *arguments, **kwargs: True,
        lambda self, user, room_id, more=1: True,
        staticmethod(lambda user, room_id: True),
        classmethod(lambda cls, user, room_id: True),
    ],
)
async def test_a_method_that_can_be_called_is_none(method):
    registered("room/<int:room_id>", may_subscribe=method)
    assert check_topics(None) == []
    assert await found("room/7").may_subscribe("ann") is True


def test_a_parameter_that_has_the_name_of_another_argument_is_an_error():
    registered("people/<slug:user>", may_subscribe=lambda self, user, **kwargs: True)
    [error] = check_topics(None)
    assert error.msg.endswith("(user, user): multiple values for argument 'user'.")


def test_a_function_that_does_not_say_what_it_takes_is_taken():
    with pytest.raises(ValueError):
        inspect.signature(max)
    registered("room/<int:room_id>", may_subscribe=staticmethod(max))
    assert check_topics(None) == []


def test_a_class_that_cannot_be_made_is_an_error():
    def fail(self):
        raise LookupError("no\n database")

    registered("room/<int:room_id>", __init__=fail, may_subscribe=lambda self, user, room_id: True)
    [error] = check_topics(None)
    assert error.msg.endswith("Rooms cannot be used: LookupError: no database")
    with pytest.raises(ImproperlyConfigured, match="LookupError: no database"):
        rules_of("room/7")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_app.rules.may", "cannot be used: ModuleNotFoundError: No module named 'no_such"),
        (f"{HERE}.no_such_name", "cannot be used: ImportError: Module"),
        (f"{HERE}.not_a_function", '["may_subscribe"] is 5, which is no function.'),
        (f"{HERE}.may_write", '["may_subscribe"] cannot be called with (user, name): missing a'),
    ],
)
def test_a_path_in_the_settings_that_leads_to_no_such_function_is_an_error(path, message):
    with in_settings("news/<slug:name>", may_subscribe=path):
        [error] = check_topics(None)
        assert error.id == "ws_support.E016"
        title = "WS_SUPPORT[\"TOPICS\"]['news/<slug:name>']"
        assert error.msg.replace(f"{title} ", title).startswith(f"{title}{message}")
        with pytest.raises(ImproperlyConfigured) as raised:
            rules_of("news/sport")
        assert str(raised.value) == f"{error.msg} {error.hint}"


@pytest.mark.parametrize("other", ["room/<int:room_id>", "room/<int:number>"])
def test_two_rules_for_the_same_topics_are_an_error(other):
    registered("room/<int:room_id>", class_name="First")
    registered(other, class_name="Second")
    with in_settings(other, history=5):
        second, third = check_topics(None)
    assert second.id == third.id == "ws_support.E015"
    first = f"matches the same topics as @topic('room/<int:room_id>') of {HERE}.First, which comes"
    assert second.msg.startswith(f"@topic('{other}') of {HERE}.Second {first}")
    assert third.msg.startswith(f"WS_SUPPORT[\"TOPICS\"]['{other}'] {first}")


def test_rules_for_more_topics_and_for_fewer_are_none():
    for pattern in ("room/<int:name>", "room/<slug:name>", "room/<name>", "room/<path:name>"):
        registered(pattern)
    assert check_topics(None) == []


def test_with_settings_that_cannot_be_read_classes_are_checked_all_the_same():
    registered("room/<foo:x>")
    with override_settings(WS_SUPPORT={"TOPICS": 5}):
        assert [error.id for error in check_topics(None)] == ["ws_support.E014"]


def test_the_command_names_what_is_wrong_in_topics_py_of_an_application(tmp_path):
    application = tmp_path / "rooms"
    application.mkdir()
    (application / "__init__.py").touch()
    (application / "topics.py").write_text(
        "from ws_support.topics import Topic, topic\n"
        '@topic("room/<foo:room>")\n'
        "class RoomTopic(Topic):\n"
        "    history = -1\n"
    )
    (tmp_path / "rooms_settings.py").write_text(
        "from example_project.settings import *\nINSTALLED_APPS = [*INSTALLED_APPS, 'rooms']\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "django", "check"],
        env={
            **clean_environment(),
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "DJANGO_SETTINGS_MODULE": "rooms_settings",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "E014) @topic('room/<foo:room>') of rooms.topics.RoomTopic cannot be" in done.stderr
    assert "E004) rooms.topics.RoomTopic.history is -1, which is out of range." in done.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"history": 5}, ["ws_support.W013"]),
        ({"presence": True}, ["ws_support.W013"]),
        ({"history": 0}, []),
    ],
)
def test_a_channel_layer_that_cannot_keep_what_rules_ask_for_is_warned_of(options, expected):
    layers = {"default": {"BACKEND": "tests.test_brokers.SharedLayer"}}
    rules = {"WS_SUPPORT": {"TOPICS": {"room/<int:x>": options}}}
    with override_settings(CHANNEL_LAYERS=layers, **rules):
        found = [each for each in check_project(None) if each.id == "ws_support.W013"]
    assert [each.id for each in found] == expected
    assert all("['room/<int:x>'] asks for" in each.msg for each in found)
    with override_settings(CHANNEL_LAYERS={}, **rules):
        assert "ws_support.W013" not in [each.id for each in check_project(None)]
