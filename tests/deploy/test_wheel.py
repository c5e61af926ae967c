"""The wheel, in a fresh project that follows the README and knows nothing of this repository."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.deploy.conftest import clean_environment
from tests.harness import BOUND, ROOT, Server, free_port

# They download and install.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """What a command that must succeed says, errors and warnings included."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**clean_environment(), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def of_the_readme(text: str) -> str:
    """The one piece of Python in the README that holds this text."""
    pieces = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (piece,) = (each for each in pieces if text in each)
    return str(piece)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory)
    (wheel,) = directory.iterdir()
    return wheel


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which nothing but the wheel was asked for."""
    directory = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", directory)
    python = directory / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel)
    return python


@pytest.fixture(scope="module")
def project(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh project, after the steps of the README."""
    project = tmp_path_factory.mktemp("project")
    run(python, "-m", "django", "startproject", "mysite", project)
    settings = project / "mysite" / "settings.py"
    before, start, rest = settings.read_text().partition("INSTALLED_APPS = [\n")
    own_applications, _, after = rest.partition("]\n")
    step = re.sub(r" *# \.\.\. .*\n", own_applications, of_the_readme(start))
    assert own_applications in step
    settings.write_text(before + step + after)
    (project / "mysite" / "asgi.py").write_text(of_the_readme("application = ProtocolTypeRouter("))
    with (project / "mysite" / "urls.py").open("a") as urls:
        urls.write(
            "\nfrom django.urls import include\n\n"
            'urlpatterns += [path("", include("ws_support.urls"))]\n'
        )
    return project


@pytest.fixture(scope="module")
def server(python: Path, project: Path) -> Iterator[Server]:
    host, port, log_file = "127.0.0.1", free_port(), project / "server.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [python, "manage.py", "runserver", "--noreload", f"{host}:{port}"],
            cwd=project,
            env=clean_environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = Server(process, host, port, log_file)
    try:
        server.wait_until_listening()
        yield server
    finally:
        server.stop()


def test_the_wheel_contains_every_file_of_the_package_and_none_besides(wheel):
    package = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "ws_support").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == package
    assert {"ws_support/py.typed", "ws_support/templates/ws_support/demo.html"} < names
    assert any(name.startswith("ws_support/static/") for name in names)


def test_a_fresh_project_passes_the_system_checks(python, project):
    assert run(python, "manage.py", "check", cwd=project) == (
        "System check identified no issues (0 silenced).\n"
    )


def test_a_fresh_project_serves_the_demo_page_and_its_static_files(server):
    for path, text in [("/", "<!doctype html>"), ("/static/ws_support/demo.js", "WebSocket")]:
        with urllib.request.urlopen(f"{server.origin}{path}", timeout=BOUND) as response:
            assert text in response.read().decode()


def test_a_fresh_project_echoes_to_the_origin_that_the_readme_allows(server):
    with server.connect(origin="https://client.com") as socket:
        socket.send("hello")
        assert socket.recv(BOUND) == "hello"


def test_a_fresh_project_refuses_a_foreign_origin(server):
    with pytest.raises(InvalidStatus) as refused:
        server.connect(origin="https://client.com.evil.example")
    assert refused.value.response.status_code == 403


def test_a_fresh_project_has_daphne_for_runasgi_and_hears_how_to_get_another(python, project):
    done = subprocess.run(
        [python, "manage.py", "runasgi", "--server", "granian"],
        cwd=project,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=BOUND,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "CommandError: Granian needs granian, which is not installed. Run: python -m pip install"
        ' --upgrade "django-ws-support[granian]"\n'
    )
    code = (
        "import django; django.setup(); from ws_support.servers import SERVERS, get_server;"
        "print([name for name in SERVERS if get_server(name).missing() is None])"
    )
    assert run(python, "-c", code, cwd=project, DJANGO_SETTINGS_MODULE="mysite.settings") == (
        "['daphne']\n"
    )
