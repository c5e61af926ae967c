"""The applications, a module for each library that is measured, and where they are.

Each echoes at `PATH` what came, as what it came. Those that can do it also echo at `LAYER_PATH`, as
a member of a group of a channel layer, and send to all clients at `TOPIC` what comes at `PUBLISH`.
A hub is at `HUB_PATH`. What comes at `HUB_PUBLISH` is sent to all of its clients. The hub of topics
is at `TOPICS_PATH`. Who connects to `PRESENT` is present under the topic `ROOM`.
"""

from __future__ import annotations

from typing import Final

HOST: Final = "127.0.0.1"
PATH: Final = "/ws"
LAYER_PATH: Final = "/layer"
TOPIC: Final = "/topic"
PUBLISH: Final = "/publish"
HUB_PATH: Final = "/hub"
HUB_PUBLISH: Final = "/publish-to-hub"
TOPICS_PATH: Final = "/topics"
PRESENT: Final = "/present"
ROOM: Final = "room/1"
ORIGIN: Final = "https://client.example"
"""The origin that every client names, the only one that `ours` admits."""
