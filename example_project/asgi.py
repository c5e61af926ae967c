from __future__ import annotations

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")

# Before the imports below: it sets Django up, which consumers may need when they are imported.
django_application = get_asgi_application()

from example_project import live  # noqa: E402
from example_project.connections import CountedTopicsHub  # noqa: E402
from example_project.hub import Chat  # noqa: E402
from ws_support.asgi import WebSocketSupport  # noqa: E402
from ws_support.hubs import HubRouter  # noqa: E402
from ws_support.routing import websocket_urlpatterns  # noqa: E402

application = ProtocolTypeRouter(
    {
        # For `runasgi`, with no proxy in front that serves them; `runserver` does it by itself.
        "http": ASGIStaticFilesHandler(django_application),
        "websocket": WebSocketSupport(
            URLRouter(
                [
                    *websocket_urlpatterns,
                    path("live/ticker", live.ticks),
                    path("live/board", live.Board.as_asgi()),
                ]
            )
        ),
    }
)

application = HubRouter(application, {"chat": Chat, "topics": CountedTopicsHub})
