"""SQLite whose connections can be lost, as those to a database server can, and are counted."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from weakref import WeakSet

from django.db.backends.sqlite3 import base

closings = Counter()
"""How often connections were asked whether they are to be closed, by alias."""

opened = {}
"""The number of the connection that was opened last, by alias."""

closed = []
"""The connections that were: alias, number, thread in which it was opened, and in which closed."""

checks = Counter()
"""How often connections were asked whether they are usable, by alias."""

refused = set()
"""The aliases whose new connections are lost at once, before a first statement."""

_numbers = itertools.count(1)
_everywhere = WeakSet()


class DatabaseWrapper(base.DatabaseWrapper):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        _everywhere.add(self)

    def get_new_connection(self, conn_params):
        connection = super().get_new_connection(conn_params)
        self.number = opened[self.alias] = next(_numbers)
        self.thread = threading.get_ident()
        if self.alias in refused:
            connection.close()
        return connection

    def is_usable(self):
        checks[self.alias] += 1
        try:
            self.connection.execute("SELECT 1")
        except self.Database.Error:
            return False
        return True

    def close_if_unusable_or_obsolete(self):
        closings[self.alias] += 1
        super().close_if_unusable_or_obsolete()

    def _close(self):
        closed.append((self.alias, self.number, self.thread, threading.get_ident()))
        super()._close()


def is_open(number):
    """Whether Django has this connection still open, in whatever thread."""
    return any(
        wrapper.connection is not None and wrapper.number == number for wrapper in list(_everywhere)
    )


def lose(number):
    """What a server does when it hangs up: nobody tells Django."""
    for wrapper in list(_everywhere):
        if wrapper.connection is not None and wrapper.number == number:
            wrapper.connection.close()
