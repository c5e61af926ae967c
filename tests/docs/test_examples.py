"""The examples in the documentation, as a project that a server runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
from websockets.exceptions import ConnectionClosed

from tests.deploy.conftest import clean_environment
from tests.harness import BOUND, ROOT, until
from tests.redis import BROKER, broadcast_from_the_shell
from ws_support.testing import Peer

_SETTINGS = "from tests.project.settings import *\nROOT_URLCONF = 'mysite.urls'\n"
_DATABASE = (
    "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}}\n"
)
_ACCOUNTS = (
    "INSTALLED_APPS = [*INSTALLED_APPS, 'django.contrib.contenttypes',"
    " 'django.contrib.auth', 'django.contrib.sessions', 'mysite']\n"
    f"{_DATABASE}"
)
_ASGI = """
import os
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path
http = get_asgi_application()
from ws_support.asgi import WebSocketSupport
{imports}
application = ProtocolTypeRouter(
    {{"http": http, "websocket": WebSocketSupport(URLRouter([{routes}]))}}
)
"""


@pytest.fixture
def project(tmp_path, serve):
    """The modules of a page, with what it leaves to the reader, served."""

    def start(page: str, **files: str):
        directory = tmp_path / "mysite"
        directory.mkdir(exist_ok=True)
        examples = examples_of(page)
        settings = files.pop("settings", "")
        files["settings"] = _SETTINGS + settings
        files.setdefault("urls", "urlpatterns = []")
        files["__init__"] = ""
        for name, text in {**files, **examples}.items():
            if name == "settings" and name in examples:
                text = _SETTINGS + text + settings
            (directory / f"{name}.py").write_text(text)
        return serve(
            asgi_server="uvicorn",
            environment=environment_of(tmp_path),
            ASGI_APPLICATION="mysite.asgi.application",
        )

    return start


def assert_its_tests_pass(directory: Path, page: str, count: int = 1) -> None:
    """Run `mysite/tests.py` of a page with the other examples of that page."""
    (directory / "mysite").mkdir()
    files = {
        "__init__": "",
        **examples_of(page),
        "settings": f"{_SETTINGS}{_ACCOUNTS}ROOT_URLCONF = 'tests.project.urls'\n",
    }
    for name, text in files.items():
        (directory / "mysite" / f"{name}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "django", "test", "mysite"],
        cwd=directory,
        env={**clean_environment(), **environment_of(directory)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    ran = f"Ran {count} test{'s' if count > 1 else ''} in"
    assert (done.returncode, ran in done.stderr) == (0, True), done.stderr


def environment_of(directory: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": f"{directory}:{ROOT}",
        "DJANGO_SETTINGS_MODULE": "mysite.settings",
    }


@pytest.mark.slow
def test_the_first_consumer_its_route_and_its_page_run_as_they_are(project, tmp_path):
    page = (ROOT / "docs" / "first.md").read_text()
    [template] = re.findall(r"^```html\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "mysite" / "templates").mkdir(parents=True)
    (tmp_path / "mysite" / "templates" / "room.html").write_text(template)
    server = project(
        "first.md",
        settings=_ACCOUNTS,
    )
    with urlopen(f"{server.origin}/rooms/blue", timeout=BOUND) as response:
        assert '"path": "/ws/rooms/blue"' in response.read().decode()
    with server.connect("/ws/rooms/blue") as one, server.connect("/ws/rooms/blue") as two:
        one.send('{"text": "Hello"}')
        for socket in (one, two):
            assert json.loads(socket.recv(BOUND)) == {"name": "somebody", "text": "Hello"}
        one.send("[]")
        with pytest.raises(ConnectionClosed, match="1007"):
            one.recv(BOUND)
    done = subprocess.run(
        [sys.executable, "-m", "django", "test", "mysite"],
        cwd=tmp_path,
        env={**clean_environment(), **environment_of(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "Ran 2 tests" in done.stderr) == (0, True), done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_tests_of_a_room_run_as_they_are(tmp_path):
    for name, text in (examples_of("first.md") | examples_of("testing.md")).items():
        if name != "tests":
            (tmp_path / "mysite").mkdir(exist_ok=True)
            (tmp_path / "mysite" / f"{name}.py").write_text(text)
    (tmp_path / "mysite" / "settings.py").write_text(
        f"{_SETTINGS}{_ACCOUNTS}ASGI_APPLICATION = 'mysite.asgi.application'\n"
    )
    line = 'pytest_plugins = ["ws_support.testing.plugin"]'
    page = (ROOT / "docs" / "testing.md").read_text()
    assert line in page
    [ini] = re.findall(r"^```ini\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "conftest.py").write_text(line)
    (tmp_path / "pytest.ini").write_text(ini)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-vv", "--durations=0", "mysite"],
            cwd=tmp_path,
            env={**clean_environment(), **environment_of(tmp_path)},
            capture_output=True,
            text=True,
            timeout=200,
        )
    except subprocess.TimeoutExpired as expired:
        pytest.fail(f"no end within 200 s\n{(expired.stdout or b'').decode()}")
    assert (done.returncode, "7 passed" in done.stdout) == (0, True), done.stdout


@pytest.mark.parametrize(
    ("offered", "said"),
    [
        (["jwt", "secret"], ["Hello ann"]),
        (["jwt", "wrong"], [(3000, "Log in first")]),
        ([], [(3000, "Log in first")]),
    ],
)
async def test_a_token_is_read_from_the_sub_protocols(offered, said):
    names: dict = {}
    exec(examples_of("first.md")["tokens"], names)
    async with Peer(names["ByToken"].as_asgi(), "/", subprotocols=offered) as peer:
        assert peer.subprotocol == next(iter(offered), None)
        message = await peer.receive_output()
        assert [message.get("text") or (message["code"], message["reason"])] == said


def examples_of(page: str) -> dict[str, str]:
    """Each block of Python on a page, by the module that its first line names."""
    text = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    examples = {}
    for block in blocks:
        name = re.match(r"# mysite/(\w+)\.py\n", block)
        assert name, f"{page} has an example without a name, which is not tested:\n{block}"
        examples[name[1]] = block
    return examples


@pytest.mark.slow
def test_a_service_writes_to_the_sockets_that_were_handed_to_it(project):
    server = project(
        "background.md",
        views=(
            "from django.http import HttpResponse\n"
            "from mysite.prices import feed\n"
            "async def publish(request):\n"
            "    await feed.publish(1.08)\n"
            "    return HttpResponse(str(len(feed.sockets)))\n"
        ),
        urls=(
            "from django.urls import path\n"
            "from mysite.views import publish\n"
            "urlpatterns = [path('publish', publish)]\n"
        ),
    )
    with ExitStack() as stack:
        one, two = (stack.enter_context(server.connect("/prices/EUR")) for _ in range(2))
        assert one.recv(BOUND) == two.recv(BOUND) == "prices in EUR"
        assert publish(server) == "2"
        assert json.loads(one.recv(BOUND)) == json.loads(two.recv(BOUND)) == {"price": 1.08}
        two.close()
        publish(server)
        assert publish(server) == "1"


def publish(server) -> str:
    with urlopen(f"{server.origin}/publish", timeout=BOUND) as response:
        return response.read().decode()


@pytest.mark.slow
def test_a_handler_talks_to_its_client(project):
    server = project("background.md")
    with server.connect("/chat/red", subprotocols=["v1"]) as socket:
        assert socket.subprotocol == "v1"
        socket.send("hello")
        assert socket.recv(BOUND) == "red: hello"
        socket.close(4000)
    server.wait_for_log("ended with 4000")


@pytest.fixture
def broadcasting(project):
    return project(
        "broadcast.md",
        settings=_DATABASE,
        asgi=_ASGI.format(
            imports="from mysite.prices import Prices\nfrom mysite.rooms import Room",
            routes=("path('prices', Prices.as_asgi()), path('rooms/<str:room>', Room.as_asgi())"),
        ),
        urls=(
            "from django.urls import path\n"
            "from mysite.orders import pay\n"
            "from mysite.views import from_synchronous_code, new_price\n"
            "urlpatterns = [path('new', new_price), path('sync', from_synchronous_code),\n"
            "    path('pay', pay)]\n"
        ),
    )


@pytest.mark.slow
def test_views_broadcast_to_everybody(broadcasting):
    with ExitStack() as stack:
        sockets = [stack.enter_context(broadcasting.connect("/prices")) for _ in range(3)]
        urlopen(f"{broadcasting.origin}/new", timeout=BOUND).close()
        assert {socket.recv(BOUND) for socket in sockets} == {'{"EUR": 1.08}'}
        urlopen(f"{broadcasting.origin}/sync", timeout=BOUND).close()
        assert {socket.recv(BOUND) for socket in sockets} == {"closed for today"}


@pytest.mark.slow
def test_what_is_committed_is_broadcast_and_what_is_rolled_back_is_not(broadcasting):
    with broadcasting.connect("/prices") as socket:
        for query in ("order=1&fails=1", "order=2"):
            urlopen(f"{broadcasting.origin}/pay?{query}", timeout=BOUND).close()
        assert socket.recv(BOUND) == '{"paid": "2"}'


@pytest.mark.slow
def test_a_room_is_a_topic(broadcasting):
    with ExitStack() as stack:
        one, two = (stack.enter_context(broadcasting.connect("/rooms/red")) for _ in range(2))
        other = stack.enter_context(broadcasting.connect("/rooms/blue"))
        one.send("hello")
        assert one.recv(BOUND) == two.recv(BOUND) == "hello"
        two.send("/leave")
        two.send("bye")
        assert one.recv(BOUND) == "bye"
        other.send("alone")
        assert other.recv(BOUND) == "alone"


_ASK = """
import asyncio, json, django
django.setup()
from django.contrib.auth.models import AnonymousUser, User
from django.core.management import call_command
from django.test import RequestFactory
from mysite.models import Room
from mysite.views import knock
from ws_support._topics.rules import rules_of
from ws_support.consumers import AsyncWebsocketConsumer
from ws_support.testing import Peer

call_command("check", fail_level="ERROR")
call_command("migrate", run_syncdb=True, verbosity=0)
ann, bob = User.objects.create_user("ann"), User.objects.create_user("bob", is_staff=True)
room = Room.objects.create(title="Kitchen")
room.members.add(ann)
empty = Room.objects.create(title="Empty")

class Listening(AsyncWebsocketConsumer):
    subscriptions = ["room/1"]

async def ask():
    rooms, everybody = rules_of(f"room/{room.pk}"), (ann, bob, AnonymousUser())
    async with Peer(Listening.as_asgi(), "/") as peer:
        await knock(RequestFactory().get("/?name=ann"), room.pk)
        knocked = await peer.receive()
    return {
        "subscribe": [await rooms.may_subscribe(user) for user in everybody],
        "empty": [await rules_of(f"room/{empty.pk}").may_subscribe(user) for user in everybody],
        "publish": [await rooms.may_publish(ann, text) for text in ("hello", "x" * 501)],
        "snapshot": await rooms.snapshot(ann),
        "news": [await rules_of("news/sport").may_subscribe(user) for user in everybody],
        "staff": [await rules_of("staff/all").may_subscribe(user) for user in everybody],
        "knocked": knocked,
    }

print(json.dumps(asyncio.run(ask())))
"""


@pytest.mark.slow
def test_the_rules_of_topics_admit_whom_they_say(tmp_path):
    (tmp_path / "mysite").mkdir()
    files = {"__init__": "", **examples_of("topics.md")}
    accounts = _ACCOUNTS.replace(":memory:", str(tmp_path / "db.sqlite3"))
    files["settings"] = f"{_SETTINGS}{files['settings']}{accounts}"
    for name, text in files.items():
        (tmp_path / "mysite" / f"{name}.py").write_text(text)
    (tmp_path / "mysite" / "urls.py").write_text("urlpatterns = []\n")
    done = subprocess.run(
        [sys.executable, "-c", _ASK],
        env={**clean_environment(), **environment_of(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "subscribe": [True, False, False],
        "empty": [False, False, False],
        "publish": [True, False],
        "snapshot": {"title": "Kitchen"},
        "news": [True, True, True],
        "staff": [False, True, False],
        "knocked": '{"knocks": "ann"}',
    }


@pytest.mark.slow
def test_who_is_online_is_told_and_asked_for(project):
    server = project(
        "presence.md",
        settings=_DATABASE,
        asgi=_ASGI.format(
            imports="from mysite.rooms import Room\nfrom mysite.editor import editor",
            routes=(
                "path('rooms/<str:room>', Room.as_asgi()), path('editor/<str:document>', editor)"
            ),
        ),
        urls=(
            "from django.http import JsonResponse\n"
            "from django.urls import path\n"
            "from mysite.views import members, who\n"
            "async def entries(request):\n"
            "    found = await members('document/a')\n"
            "    return JsonResponse([each.entries for each in found.members], safe=False)\n"
            "urlpatterns = [path('who/<str:room>', who), path('entries', entries)]\n"
        ),
    )
    with server.connect("/rooms/red") as one, server.connect("/rooms/red") as two:
        first = json.loads(one.recv(BOUND))
        while first["count"] < 2:
            first = json.loads(one.recv(BOUND))
        assert len(first["joined"]) in (1, 2)
        assert json.loads(two.recv(BOUND))["count"] == 2
        with urlopen(f"{server.origin}/who/red", timeout=BOUND) as response:
            assert json.load(response) == {"count": 2, "members": [{"name": "", "tabs": 1}] * 2}
        two.close()
        assert len(json.loads(one.recv(BOUND))["left"]) == 1
    with server.connect("/editor/a") as socket:
        socket.send("typing")
        for _ in until("change of the metadata"):
            with urlopen(f"{server.origin}/entries", timeout=BOUND) as response:
                if json.load(response) == [[{"typing": True}]]:
                    break


@pytest.mark.slow
def test_the_settings_for_redis_reach_other_processes(project, redis):
    address = f"redis://127.0.0.1:{redis.port}"
    server = project(
        "scaling.md",
        settings=f"\nCHANNEL_LAYERS['default']['CONFIG']['hosts'][0]['address'] = '{address}'\n",
        asgi=_ASGI.format(
            imports="from tests.project import live",
            routes="path('topics/<path:topic>', live.Subscriber.as_asgi())",
        ),
    )
    assert "broadcasts  through Redis to every process that uses it" in server.log()
    with server.connect("/topics/prices") as socket:
        assert socket.recv(BOUND).startswith("ready")
        done = broadcast_from_the_shell(redis.settings(BROKER), "prices", '{"EUR": 1.08}', "--json")
        assert done.stdout == "1 process took it.\n"
        assert socket.recv(BOUND) == '{"EUR": 1.08}'
