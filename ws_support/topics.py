"""Topics with rules: who may subscribe to a topic from a page, and what is kept of it.

    @topic("room/<int:room_id>")
    class RoomTopic(Topic):
        history = 200

        async def may_subscribe(self, user, room_id):
            members = Room.objects.filter(pk=room_id, members=user.pk)
            return user.is_authenticated and await members.aexists()

    RoomTopic.name(room_id=7)  # "room/7"

A topic with a history gives back what a client has missed, or `history()` reads it:

    position = await broadcast("room/7", "hello")
    await self.subscribe("room/7", since=position)

Django imports the module `topics` of each application, as it imports `admin`. The settings may have
rules as well: `WS_SUPPORT["TOPICS"]`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeVar

from django.core.exceptions import ImproperlyConfigured

from ws_support._topics.reading import History, HistoryMessage, history
from ws_support._topics.registry import Recovery
from ws_support._topics.rules import register
from ws_support._topics.sources import ClassRule
from ws_support._topics.tokens import topic_token

__all__ = ["History", "HistoryMessage", "Recovery", "Topic", "history", "topic", "topic_token"]


class Topic:
    """The rules of some topics. A subclass gets its pattern from `topic()`.

    The methods get the arguments that Django's converters find in the name of a topic. Each may be
    a coroutine function; another function runs in a thread, and may use the database. What they
    raise is not caught. One instance serves all topics: keep nothing in `self`.
    """

    history: int = 0
    """Messages that are kept for those who come back; 0: none."""

    history_seconds: float = 600
    """Seconds that messages are kept after the last one."""

    presence: bool = False
    """True if pages are told who is there."""

    _rule: ClassVar[ClassRule | None] = None

    def may_subscribe(self, user: Any, *args: Any, **kwargs: Any) -> bool | Awaitable[bool]:
        """Return True if `user` may subscribe from a page. By default, nobody may.

        Code on the server is not asked. Anything but True and False is a `TypeError`.
        """
        return False

    def may_publish(
        self, user: Any, message: Any, *args: Any, **kwargs: Any
    ) -> bool | Awaitable[bool]:
        """Return True if `user` may publish `message` from a page. By default, nobody may.

        Code on the server is not asked. Anything but True and False is a `TypeError`.
        """
        return False

    def snapshot(self, user: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the state of a topic as `user` may see it, for those who subscribe: what JSON has,
        or an awaitable of that. By default, a topic has no such state.
        """
        return None

    @classmethod
    def name(cls, /, **kwargs: Any) -> str:
        """Return the name of the topic with these arguments, as `django.urls.reverse()` does.

        Nothing is quoted. Raises `TypeError` if these are not the arguments of the pattern,
        `ValueError` if one does not fit its converter, or could not be told from its neighbour, and
        `ImproperlyConfigured` without a pattern that can be read.
        """
        if cls._rule is None:
            raise ImproperlyConfigured(
                f"{cls.__module__}.{cls.__qualname__} has no pattern. Write"
                ' @topic("room/<int:room_id>") above the class.'
            )
        return cls._rule.name(kwargs)


TopicClass = TypeVar("TopicClass", bound=type[Topic])


def topic(pattern: str) -> Callable[[TopicClass], TopicClass]:
    """Make a subclass of `Topic` the rules of all topics that `pattern` matches::

        @topic("room/<int:room_id>")
        class RoomTopic(Topic): ...

    The pattern is a route as in `django.urls.path()`, for the whole name of a topic. Of several
    patterns that match a topic, the one that was registered first decides. Names that begin with
    "ws_support." match none.

    Raises `TypeError` for anything but a subclass of `Topic` without a pattern of its own. What is
    wrong with the pattern or the class is said by `manage.py check`, and by the first use as
    `ImproperlyConfigured`.
    """
    if not isinstance(pattern, str):
        raise TypeError(f'Write @topic("room/<int:room_id>"), with a string: got {pattern!r:.100}.')

    def decorate(topic_class: TopicClass) -> TopicClass:
        if (
            not isinstance(topic_class, type)
            or not issubclass(topic_class, Topic)
            or topic_class is Topic
        ):
            raise TypeError(
                f"@topic({pattern!r:.100}) stands above a subclass of Topic: got"
                f" {topic_class!r:.100}."
            )
        if "_rule" in vars(topic_class):
            raise TypeError(
                f"{topic_class.__qualname__} has a pattern, and gets another one: {pattern!r:.100}."
                " Write a subclass for that."
            )
        rule = ClassRule(pattern, topic_class, Topic)
        topic_class._rule = rule
        register(rule)
        return topic_class

    return decorate
