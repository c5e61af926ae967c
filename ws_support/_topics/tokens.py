"""Tokens of topics: a view says that a page may subscribe, in place of `may_subscribe()`."""

from __future__ import annotations

import time
from typing import Any, Final

from django.core import signing

from ws_support._topics.messages import checked_topic
from ws_support._topics.patterns import INTERNAL

LIFETIME: Final = 86400.0
"""Seconds that a token is good for: a page may be open for a working day, and reconnects."""

_SALT: Final = "ws_support.topics"

_LONGEST: Final = 4096
"""Characters of the longest text that is looked at: clients send it."""


def topic_token(topic: str, user: Any = None, seconds: float = LIFETIME) -> str:
    """Return a token with which `user` may subscribe to `topic` from a page.

    It is good for `seconds`. Without a user, or for one who is not authenticated, everybody who has
    it may use it. Raises `TypeError` or `ValueError` for an invalid topic.
    """
    if checked_topic(topic).startswith(INTERNAL):
        raise ValueError(f"Topics that begin with {INTERNAL!r} are not for pages: got {topic!r}.")
    return signing.dumps([topic, _key_of(user), round(time.time() + seconds)], salt=_SALT)


def is_good_token(token: str, topic: str, user: Any) -> bool:
    """Return True if `user` may subscribe to `topic` with `token`."""
    if len(token) > _LONGEST:
        return False
    try:
        of, key, until = signing.loads(token, salt=_SALT)
    except signing.BadSignature:
        return False
    return bool(of == topic and time.time() < until and key in (None, _key_of(user)))


def _key_of(user: Any) -> str | None:
    """Return the primary key of `user`, as text; `None` without a user who is authenticated."""
    if user is None or not user.is_authenticated:
        return None
    return str(user.pk)
