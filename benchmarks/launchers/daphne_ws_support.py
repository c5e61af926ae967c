"""Daphne as `manage.py runserver` of this package sets it up: MODULE:NAME PORT."""

from __future__ import annotations

import sys

from daphne.endpoints import build_endpoint_description_strings
from daphne.utils import import_by_path

from benchmarks.handshake import HOST
from ws_support.conf import get_options
from ws_support.servers.daphne.server import Server, configuration

if __name__ == "__main__":
    application, port = sys.argv[1:]
    Server(
        import_by_path(application),
        endpoints=build_endpoint_description_strings(host=HOST, port=int(port)),
        **configuration(get_options()),
    ).run()
