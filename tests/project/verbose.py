"""Our Daphne server with Twisted's log shown, which Daphne hides below verbosity 2."""

from __future__ import annotations

import logging
import sys

logging.basicConfig(level=logging.INFO)

from tests.project.asgi import application  # noqa: E402
from ws_support.servers.daphne.server import Server  # noqa: E402

Server(application, endpoints=[f"tcp:{sys.argv[1]}:interface=127.0.0.1"], verbosity=2).run()
