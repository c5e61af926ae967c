"""Daphne for `manage.py runasgi`.

`ws_support.servers.daphne.server` is imported only when the server is used: the import of Twisted
takes as long as that of Django, and other servers are chosen far more often.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, ClassVar

from ws_support.conf import Options
from ws_support.servers._run.shutdown import Stop
from ws_support.servers._run.supervisor import SocketServer
from ws_support.servers.base import ServeConfig

__all__ = ["Daphne"]


class Daphne(SocketServer):
    name = "daphne"
    title = "Daphne"
    requirements: ClassVar = {"daphne": "4.2.2"}
    extra = None
    merit = "it keeps every setting"

    def refusals(self, plan: ServeConfig) -> Iterator[str]:
        yield from super().refusals(plan)
        if plan.workers > 1:
            yield (
                "Daphne has no workers. Start it several times, each with a --port or --uds of its"
                " own, or use another server."
            )
        if plan.options.per_message_deflate and not _can_deflate():
            yield (
                'WS_SUPPORT["PER_MESSAGE_DEFLATE"] needs autobahn 26 on Daphne, and with it Python'
                " 3.11: older ones do not limit what a compressed message becomes."
            )

    def websocket_options(self, options: Options) -> dict[str, Any]:
        from ws_support.servers.daphne.server import configuration

        return configuration(options)

    def serve(
        self, application: Any, plan: ServeConfig, listener: socket.socket, stop: Stop
    ) -> None:
        from ws_support.servers.daphne.server import ProductionServer

        ProductionServer(application, plan, listener, stop).run()


def _can_deflate() -> bool:
    # Imported first, since this module chooses the reactor that other modules import.
    import ws_support.servers.daphne.server  # noqa: F401
    from ws_support.servers.daphne.websocket import CAN_DEFLATE

    return CAN_DEFLATE
