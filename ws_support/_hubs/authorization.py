"""Who may use a hub, or one of its methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured

Decorated = TypeVar("Decorated")

_KEY: Final = "_hub_requirements"


class Requirement(NamedTuple):
    """What a user needs: all of it."""

    permissions: tuple[str, ...]
    check: Callable[[Any], Any] | None

    async def is_met(self, user: Any, context: Any) -> HTTPStatus | None:
        """Return None if it is met, else the status that says what is missing."""
        if user is None or not user.is_authenticated:
            return HTTPStatus.UNAUTHORIZED
        if self.permissions and not await user.ahas_perms(self.permissions):
            return HTTPStatus.FORBIDDEN
        if self.check is not None:
            check = self.check
            if not iscoroutinefunction(check):
                check = sync_to_async(check)  # It may ask the database.
            allowed = await check(context)
            if isawaitable(allowed):  # Of a lambda: every coroutine is true.
                allowed = await allowed
            if not allowed:
                return HTTPStatus.FORBIDDEN
        return None


def authorize(
    *wrong: NoReturn,
    permission: str | Iterable[str] = (),
    check: Callable[[Any], Any] | None = None,
) -> Callable[[Decorated], Decorated]:
    """Admit only authenticated users to a hub, or to one of its methods::

        @authorize()
        class Chat(Hub):
            @authorize(permission="chat.ban")
            async def ban(self, name: str) -> None: ...

    `permission` is one permission of Django or several, all of which the user needs. `check` is
    called with the `HubContext`, and returns True for those who may; a coroutine function, or a
    function that may use the database. Several decorators have to be met together.

    A hub refuses others with 401 or 403. A method that is not allowed is answered with an error,
    and the connection goes on. Raises `ImproperlyConfigured` for what is no permission.
    """
    if wrong:
        raise ImproperlyConfigured(
            "authorize() takes named arguments only: write @authorize(), or"
            ' @authorize(permission="chat.ban").'
        )
    permissions = (permission,) if isinstance(permission, str) else tuple(permission)
    for each in permissions:
        if not isinstance(each, str) or "." not in each:
            raise ImproperlyConfigured(
                f"authorize(): a permission is a text such as 'chat.ban', not {each!r}."
            )
    if check is not None and not callable(check):
        raise ImproperlyConfigured(f"authorize(): check has to be callable, not {check!r}.")
    requirement = Requirement(permissions, check)

    def decorate(target: Decorated) -> Decorated:
        setattr(target, _KEY, (*requirements_of(target), requirement))
        return target

    return decorate


def requirements_of(target: Any) -> tuple[Requirement, ...]:
    """Return what a hub or a method asks for."""
    requirements: tuple[Requirement, ...] = getattr(target, _KEY, ())
    return requirements


async def refusal(
    requirements: Iterable[Requirement], user: Any, context: Any
) -> HTTPStatus | None:
    """Return the status that says what is missing, or None if all is met."""
    for each in requirements:
        if status := await each.is_met(user, context):
            return status
    return None
