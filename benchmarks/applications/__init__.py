"""The applications, a module for each library that is measured.

Each echoes at `/ws` what came, as what it came. Those that can do it also echo at `/layer`, as a
member of a group of a channel layer, and send to all clients at `/topic` what comes at `/publish`.
"""

from __future__ import annotations
