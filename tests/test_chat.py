"""A chat made with Channels runs unchanged once the import of its consumers is changed.

The same conversations are held with `tests/chat` as it is, and with a copy in which that one line
differs. What is expected is written down once, so that it is Channels' own behaviour.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.protocol import State
from websockets.sync.client import ClientConnection

from tests.harness import BOUND, ROOT, Server, free_port, running, until

PROJECT = ROOT / "tests" / "chat"
IMPORTED = "AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer"
LINE_OF_CHANNELS = f"from channels.generic.websocket import {IMPORTED}"
LINE_OF_OURS = f"from ws_support.consumers import {IMPORTED}"


@pytest.fixture(scope="module")
def changed_project(tmp_path_factory) -> Path:
    """A copy of the project, with another import."""
    copy = tmp_path_factory.mktemp("changed") / "chat"
    shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    consumers = copy / "rooms" / "consumers.py"
    consumers.write_text(consumers.read_text().replace(LINE_OF_CHANNELS, LINE_OF_OURS))
    return copy


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory) -> Path:
    """Migrated, with people and without rooms."""
    database = tmp_path_factory.mktemp("empty") / "chat.sqlite3"
    for command in (["migrate", "--verbosity=0"], ["loaddata", "--verbosity=0", "people"]):
        subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=PROJECT,
            env={**os.environ, **settings(database)},
            check=True,
            timeout=BOUND,
        )
    return database


@pytest.fixture(
    scope="module",
    params=[
        (consumers, server)
        for server in ("uvicorn", "daphne")
        for consumers in ("channels", "ws_support")
    ],
    ids="-".join,
)
def running_chat(request, tmp_path_factory, changed_project, empty_database) -> Iterator[Chat]:
    consumers, command = request.param
    project = {"channels": PROJECT, "ws_support": changed_project}[consumers]
    directory = tmp_path_factory.mktemp("chat")
    database = Path(shutil.copy(empty_database, directory))
    with serving_project(project, command, database, directory / "server.log") as server:
        yield Chat(server, database, sends_reasons=command != "daphne")


@pytest.fixture
def chat(running_chat) -> Iterator[Chat]:
    """The chat, which nobody has stayed in when the test is over."""
    before = running_chat.occupied()
    yield running_chat
    server = running_chat.server
    for _ in until("end of all that began", lambda: (running_chat.occupied(), server.log())):
        if running_chat.occupied() == before:
            break


def test_only_the_line_of_the_import_differs(changed_project):
    differences = []
    for original in PROJECT.rglob("*"):
        if original.is_file() and "__pycache__" not in original.parts:
            changed = changed_project / original.relative_to(PROJECT)
            lines = zip(read_lines(original), read_lines(changed), strict=True)
            differences += [pair for pair in lines if pair[0] != pair[1]]
    assert differences == [(LINE_OF_CHANNELS, LINE_OF_OURS)]


# What is said


def test_everybody_hears_what_is_said_and_the_database_has_it(chat):
    room = chat.opened_room()
    with chat.joined(room, "ann") as ann, chat.joined(room, "bob") as bob:
        ann.asks("say", text="Hello, Bob")
        assert bob.hears() == said("ann", "Hello, Bob")
        bob.asks("say", text="Hello, Ann")
        assert bob.hears_the_rest() == [said("bob", "Hello, Ann")]
        assert ann.hears_the_rest() == [
            came("bob"),
            said("ann", "Hello, Bob"),
            said("bob", "Hello, Ann"),
        ]
    assert chat.messages(room) == ["ann: Hello, Bob", "bob: Hello, Ann"]


def test_what_is_said_in_haste_keeps_its_order(chat):
    room = chat.opened_room()
    texts = [f"number {number}" for number in range(50)]
    with chat.joined(room, "ann") as ann, chat.joined(room, "bob") as bob:
        for text in texts:
            ann.asks("say", text=text)
        expected = [said("ann", text) for text in texts]
        assert [bob.hears() for _ in texts] == expected
        assert ann.hears_the_rest() == [came("bob"), *expected]
    assert chat.messages(room) == [f"ann: {text}" for text in texts]


def test_what_is_said_in_a_room_stays_there(chat):
    kitchen, cellar = chat.opened_room(), chat.opened_room()
    with chat.joined(kitchen, "ann") as ann, chat.joined(cellar, "bob") as bob:
        ann.asks("say", text="It is warm here")
        assert ann.hears_the_rest() == [said("ann", "It is warm here")]
        assert bob.hears_the_rest() == []
    assert chat.messages(cellar) == []


def test_the_others_see_who_is_typing(chat):
    room = chat.opened_room()
    with chat.joined(room, "ann") as ann, chat.joined(room, "bob") as bob:
        ann.asks("type")
        assert bob.hears() == {"type": "typing", "user": "ann"}
        assert ann.hears_the_rest() == [came("bob")]


def test_history_comes_in_pages_with_the_newest_first(chat):
    room = chat.opened_room()
    with chat.joined(room, "ann") as ann:
        for number in range(4):
            ann.asks("say", text=str(number))
        assert ann.hears_the_rest() == [said("ann", str(number)) for number in range(4)]
    with chat.joined(room, "bob") as bob:
        bob.asks("history")
        bob.asks("history", page=2)
        newest = {"page": 1, "pages": 2, "messages": ["ann: 3", "ann: 2", "ann: 1"]}
        oldest = {"page": 2, "pages": 2, "messages": ["ann: 0"]}
        assert [bob.hears(), bob.hears()] == [
            {"type": "history", **newest},
            {"type": "history", **oldest},
        ]


def test_a_whisper_reaches_each_connection_of_one_person(chat):
    kitchen, cellar = chat.opened_room(), chat.opened_room()
    with (
        chat.joined(kitchen, "ann") as ann,
        chat.joined(kitchen, "bob") as bob,
        chat.joined(cellar, "bob") as bob_below,
        chat.joined(cellar, "cleo") as cleo,
    ):
        ann.asks("whisper", to="bob", text="psst")
        whisper = {"type": "whisper", "user": "ann", "text": "psst"}
        assert ann.hears_the_rest() == [came("bob"), {"type": "whispered", "times": 2}]
        assert bob.hears_the_rest() == [whisper]
        assert bob_below.hears_the_rest() == [came("cleo"), whisper]
        assert cleo.hears_the_rest() == []


def test_a_whisper_to_somebody_who_left_reaches_nobody(chat):
    room = chat.opened_room()
    with chat.joined(room, "ann") as ann:
        with chat.joined(room, "bob"):
            pass
        assert [ann.hears(), ann.hears()] == [came("bob"), left("bob")]
        ann.asks("whisper", to="bob", text="psst")
        assert ann.hears_the_rest() == [{"type": "whispered", "times": 0}]


def test_an_announcement_reaches_all_rooms_in_the_language_of_each(chat):
    with (
        chat.joined(chat.opened_room(), "ann") as ann,
        chat.joined(chat.opened_room(), "bob", query="?language=de") as bob,
        chat.joined(chat.opened_room(), "cleo", query="?language=fr") as cleo,
    ):
        cleo.asks("announce", text="Party", on="2030-05-01")
        people = {ann: "May 1, 2030", bob: "1. Mai 2030", cleo: "1 mai 2030"}
        for person, day in people.items():
            assert person.hears() == {"type": "announcement", "text": "Party", "on": day}


@pytest.mark.parametrize(
    ("language", "required", "invalid"),
    [
        ("en", "This field is required.", "Enter a valid value."),
        ("de", "Dieses Feld ist zwingend erforderlich.", "Bitte einen gültigen Wert eingeben."),
    ],
)
def test_mistakes_are_named_in_the_language_of_the_connection(chat, language, required, invalid):
    room = chat.opened_room()
    with chat.joined(room, "ann", query=f"?language={language}") as ann:
        ann.asks("say", text="")
        ann.asks("dance")
        ann.socket.send("no JSON")
        assert ann.hears_the_rest() == [error(required), error(invalid), error(invalid)]
    assert chat.messages(room) == []


# Who is there


def test_those_who_stay_are_told_of_those_who_come_and_go(chat):
    room = chat.opened_room()
    with chat.joined(room, "ann") as ann:
        with chat.joined(room, "bob") as bob:
            with chat.joined(room, "cleo") as cleo:
                cleo.asks("who")
                assert cleo.hears_the_rest() == [who("ann", "bob", "cleo")]
            assert [bob.hears(), bob.hears()] == [came("cleo"), left("cleo")]
            bob.asks("who")
            assert bob.hears_the_rest() == [who("ann", "bob")]
        expected = [came("bob"), came("cleo"), left("cleo"), left("bob")]
        assert [ann.hears() for _ in expected] == expected
        ann.asks("who")
        assert ann.hears_the_rest() == [who("ann")]
    assert chat.log(room, "gone", 3) == [
        ("connect", "ann", None),
        ("connect", "bob", None),
        ("connect", "cleo", None),
        ("disconnect", "cleo", 1000),
        ("gone", "cleo", None),
        ("disconnect", "bob", 1000),
        ("gone", "bob", None),
        ("disconnect", "ann", 1000),
        ("gone", "ann", None),
    ]


def test_one_person_may_be_there_twice(chat):
    room = chat.opened_room()
    with chat.joined(room, "ann") as first:
        with chat.joined(room, "ann") as second:
            first.asks("say", text="Is there an echo?")
            assert second.hears() == said("ann", "Is there an echo?")
            second.asks("who")
            assert second.hears_the_rest() == [who("ann", "ann")]
        expected = [came("ann"), said("ann", "Is there an echo?"), left("ann")]
        assert [first.hears() for _ in expected] == expected
        first.asks("who")
        assert first.hears_the_rest() == [who("ann")]


def test_the_session_counts_the_visits_of_one_browser(chat):
    room, browser = chat.opened_room(), chat.logged_in("ann")
    for visits in (1, 2, 3):
        with chat.joined(room, "ann", browser=browser, visits=visits):
            pass
    with chat.joined(room, "ann", visits=1):
        pass


# Who gets in, and how it ends


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        (["chat.v1", "chat.v2"], "chat.v2"),
        (["graphql", "chat.v1"], "chat.v1"),
        (["graphql"], None),
        (None, None),
    ],
)
def test_the_sub_protocol_is_the_one_that_the_server_likes_best(chat, offered, agreed):
    with chat.joined(chat.opened_room(), "ann", subprotocols=offered) as ann:
        assert ann.socket.subprotocol == agreed


def test_without_a_login_nobody_gets_in(chat):
    room = chat.opened_room()
    with pytest.raises(InvalidStatus) as refused:
        chat.server.connect(room)
    assert refused.value.response.status_code == 403
    assert chat.log(room, "gone") == [
        ("refused", "nobody", None),
        ("disconnect", "nobody", 1006),
        ("gone", "nobody", None),
    ]


@pytest.mark.parametrize("is_there", [True, False])
def test_there_is_no_way_into_a_room_for_staff_or_into_none(chat, is_there):
    room = chat.opened_room(for_staff=True) if is_there else "/rooms/nowhere/"
    with pytest.raises(InvalidStatus) as refused:
        chat.server.connect(room, additional_headers=chat.logged_in("ann"))
    assert refused.value.response.status_code == 403
    assert chat.log(room, "gone") == [("disconnect", "ann", 1006), ("gone", "ann", None)]


def test_staff_gets_into_a_room_for_staff(chat):
    with chat.joined(chat.opened_room(for_staff=True), "cleo") as cleo:
        cleo.asks("who")
        assert cleo.hears() == who("cleo")


@pytest.mark.parametrize("code", [1000, 1001, 4001])
def test_the_code_of_the_client_is_what_disconnect_is_told(chat, code):
    room = chat.opened_room()
    with chat.joined(room, "ann") as ann:
        ann.socket.close(code)
    assert chat.log(room, "gone") == [
        ("connect", "ann", None),
        ("disconnect", "ann", code),
        ("gone", "ann", None),
    ]


def test_those_who_lose_their_network_leave_as_well(chat):
    room = chat.opened_room()
    with chat.joined(room, "ann") as ann:
        with chat.joined(room, "bob") as bob:
            bob.loses_the_network()
        assert [ann.hears(), ann.hears()] == [came("bob"), left("bob")]
        ann.asks("who")
        assert ann.hears_the_rest() == [who("ann")]


def test_who_leaves_is_told_goodbye(chat):
    room = chat.opened_room()
    with chat.joined(room, "ann") as ann, chat.joined(room, "bob") as bob:
        bob.asks("leave")
        assert bob.hears() == {"type": "bye"}
        assert bob.ending() == (1000, "")
        assert [ann.hears(), ann.hears()] == [came("bob"), left("bob")]
        assert ("disconnect", "bob", 1000) in chat.log(room, "disconnect")


def test_staff_removes_people_with_a_code_and_a_reason(chat):
    room = chat.opened_room()
    with chat.joined(room, "ann") as ann, chat.joined(room, "cleo") as cleo:
        cleo.asks("remove", user="ann")
        assert ann.hears() == came("cleo")
        assert ann.ending() == (4003, "removed" if chat.sends_reasons else "")
        assert cleo.hears() == left("ann")
        assert ("disconnect", "ann", 4003) in chat.log(room, "disconnect")


def test_whoever_removes_others_and_may_not_has_to_go(chat):
    room = chat.opened_room()
    with chat.joined(room, "ann") as ann, chat.joined(room, "bob") as bob:
        bob.asks("remove", user="ann")
        assert bob.ending() == (4403, "")
        assert [ann.hears(), ann.hears()] == [came("bob"), left("bob")]
        assert ("disconnect", "bob", 4403) in chat.log(room, "disconnect")


# On the board


def test_strokes_and_texts_reach_everybody_at_the_board(chat):
    board = chat.new("/boards/")
    with (
        chat.server.connect(f"{board}?colour=red") as red,
        chat.server.connect(board) as black,
    ):
        assert red.recv(BOUND) == "1 welcome, red"
        assert black.recv(BOUND) == "1 welcome, black"
        red.send(b"\x00\xff")
        assert [red.recv(BOUND), black.recv(BOUND)] == [b"\x00\xff"] * 2
        black.send("nice")
        assert red.recv(BOUND) == "3 black to red: nice"
        assert black.recv(BOUND) == "3 black to black: nice"


def test_whatever_is_overridden_at_the_board_is_called_in_order(chat):
    board = chat.new("/boards/")
    with chat.server.connect(f"{board}?colour=red") as red:
        assert red.recv(BOUND) == "1 welcome, red"
        red.send("alone")
        assert red.recv(BOUND) == "2 red to red: alone"
        red.send("leave")
        assert red.recv(BOUND) == "3 bye"
        assert ending(red) == (4100, "")
    assert chat.log(board, "gone") == [
        ("connect", "red", None),
        ("disconnect", "red", 4100),
        ("stop", "red", None),
        ("gone", "red", None),
    ]
    assert chat.server.events("gone", board)[0]["handled"] == [
        "websocket.connect",
        "websocket.receive",
        "board.drawn",
        "websocket.receive",
        "websocket.disconnect",
    ]


# While one waits


def test_the_countdown_ends_with_its_own_code(chat):
    with chat.server.connect("/countdown/3/") as socket:
        left = [json.loads(socket.recv(BOUND)) for _ in range(3)]
        assert left == [{"left": number, "for": "anybody"} for number in (3, 2, 1)]
        assert ending(socket) == (4200, "")
    assert chat.log("/countdown/3/", "disconnect") == [
        ("connect", "anybody", None),
        ("disconnect", "anybody", 4200),
    ]


def test_the_countdown_is_cancelled_when_nobody_waits_any_more(chat):
    with chat.server.connect("/advent/24/") as socket:
        assert json.loads(socket.recv(BOUND)) == {"left": 24, "for": "anybody"}
    assert chat.log("/advent/24/", "cancelled") == [
        ("connect", "anybody", None),
        ("disconnect", "anybody", 1000),
        ("cancelled", "anybody", None),
    ]


# What is heard


def welcome(visits: int = 1) -> dict[str, Any]:
    return {"type": "welcome", "visits": visits}


def came(user: str) -> dict[str, Any]:
    return {"type": "presence", "user": user, "is_here": True}


def left(user: str) -> dict[str, Any]:
    return {"type": "presence", "user": user, "is_here": False}


def said(user: str, text: str) -> dict[str, Any]:
    return {"type": "message", "user": user, "text": text}


def who(*people: str) -> dict[str, Any]:
    return {"type": "who", "people": list(people)}


def error(text: str) -> dict[str, Any]:
    return {"type": "error", "text": text}


# Those who talk


class Person:
    """Somebody in a room."""

    def __init__(self, socket: ClientConnection, name: str) -> None:
        self.socket = socket
        self.name = name

    def asks(self, action: str, **content: Any) -> None:
        self.socket.send(json.dumps({"do": action, **content}))

    def hears(self) -> dict[str, Any]:
        """The next message, which is for this person."""
        message: dict[str, Any] = json.loads(self.socket.recv(BOUND))
        assert message.pop("for") == self.name
        return message

    def hears_the_rest(self) -> list[dict[str, Any]]:
        """All that was under way when it was asked for: the answer stands in the same queue."""
        self.asks("ping")
        return list(iter(self.hears, {"type": "pong"}))

    def ending(self) -> tuple[int, str]:
        return ending(self.socket)

    def loses_the_network(self) -> None:
        self.socket.socket.shutdown(SHUT_RDWR)
        with pytest.raises(ConnectionClosed):
            self.socket.recv(BOUND)


def ending(socket: ClientConnection) -> tuple[int, str]:
    """Code and reason with which the server closes, without another message."""
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(BOUND)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


class Chat:
    """The project while it runs, and what it leaves behind."""

    def __init__(self, server: Server, database: Path, *, sends_reasons: bool) -> None:
        self.server = server
        self.database = database
        self.sends_reasons = sends_reasons
        """Daphne 4.2 closes with a code alone."""
        self._numbers = count(1)
        self._exits: Counter[str] = Counter()

    def new(self, prefix: str) -> str:
        """A path that no other test has."""
        return f"{prefix}{next(self._numbers)}/"

    def opened_room(self, *, for_staff: bool = False) -> str:
        path = self.new("/rooms/")
        statement = "INSERT INTO rooms_room (slug, for_staff) VALUES (?, ?)"
        self.rows(statement, path.split("/")[2], for_staff)
        return path

    def logged_in(self, user: str) -> dict[str, str]:
        """The cookie of a new session, as headers. The people have their names as passwords."""
        form = urlencode({"username": user, "password": user}).encode()
        with urlopen(f"{self.server.origin}/login/", form, BOUND) as response:
            return {"Cookie": response.headers["Set-Cookie"].partition(";")[0]}

    @contextmanager
    def joined(
        self,
        room: str,
        user: str,
        *,
        browser: dict[str, str] | None = None,
        query: str = "",
        visits: int = 1,
        **options: Any,
    ) -> Iterator[Person]:
        """Somebody who has entered and was told so; who has left, and left no word unheard, after.

        Nobody leaves while there is something to be told: `disconnect()` is not called by Channels
        when a message meets a client that has just left.
        """
        headers = browser or self.logged_in(user)
        with self.server.connect(room + query, additional_headers=headers, **options) as socket:
            person = Person(socket, user)
            assert [person.hears(), person.hears()] == [welcome(visits), came(user)]
            yield person
            if socket.state is State.OPEN:
                assert {message["type"] for message in person.hears_the_rest()} <= {"presence"}
        self._exits[room] += 1
        self.server.wait_for_event("gone", room, self._exits[room])

    def log(self, path: str, last: str, times: int = 1) -> list[tuple[str, str, int | None]]:
        """What was logged for a path, as event, user and code, when `last` came so many times."""
        self.server.wait_for_event(last, path, times)
        # The last line may be on its way.
        lines = self.server.log().rpartition("\n")[0].splitlines()
        lines = [line for line in lines if line.startswith('{"event"')]
        events = (json.loads(line) for line in lines)
        return [
            (each["event"], each["user"], each.get("code"))
            for each in events
            if each["path"] == path
        ]

    def messages(self, room: str) -> list[str]:
        statement = """
            SELECT username || ': ' || text FROM rooms_message
            JOIN rooms_room ON rooms_room.id = room_id
            JOIN auth_user ON auth_user.id = author_id
            WHERE slug = ? ORDER BY rooms_message.id
        """
        return [text for (text,) in self.rows(statement, room.split("/")[2])]

    def rows(self, statement: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(self.database, timeout=BOUND)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def occupied(self) -> tuple[dict[str, int], list[Any]]:
        """The groups with their sizes, as far as they have members, and the seats."""
        with urlopen(f"{self.server.origin}/groups/", timeout=BOUND) as response:
            groups = {name: size for name, size in json.load(response).items() if size}
        return groups, self.rows("SELECT * FROM rooms_seat")


@contextmanager
def serving_project(
    project: Path, command: str, database: Path, log_file: Path
) -> Iterator[Server]:
    """The project on a server, as its users would start it, started and stopped."""
    host, port = "127.0.0.1", free_port()
    commands = {
        "uvicorn": ["-m", "uvicorn", "config.asgi:application", "--port", str(port)],
        "daphne": ["manage.py", "runserver", "--noreload", f"{host}:{port}"],
    }
    with running(
        commands[command], log_file, port=port, cwd=project, environment=settings(database)
    ) as server:
        yield server


def settings(database: Path) -> dict[str, str]:
    return {"DJANGO_SETTINGS_MODULE": "config.settings", "CHAT_DATABASE": str(database)}


def read_lines(file: Path) -> list[str]:
    return file.read_text().splitlines()
