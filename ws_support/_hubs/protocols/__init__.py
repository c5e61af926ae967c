"""The two protocols of hubs, and the handshake that chooses one: functions of bytes, without I/O.

The source for all of it is HubProtocol.md in the repository of ASP.NET Core. Where that and what
Microsoft's server and clients do differ, this does what they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ws_support._hubs.protocols.base import HubProtocol
from ws_support._hubs.protocols.json import JSONProtocol
from ws_support._hubs.protocols.messagepack import MessagePackProtocol

PROTOCOLS: Final[Mapping[str, HubProtocol]] = {
    protocol.name: protocol for protocol in (JSONProtocol(), MessagePackProtocol())
}
"""By the name in the handshake."""
