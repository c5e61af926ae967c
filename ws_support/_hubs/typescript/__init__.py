"""The declaration of a hub in TypeScript: its methods, and what it calls on its clients."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured

from ws_support._hubs.methods import HubMethod, client_of, hints_of, methods_of, shown_name
from ws_support._hubs.typescript.names import RESERVED_WORDS
from ws_support._hubs.typescript.types import Types

_HEAD: Final = """\
// Made by `manage.py hub_types {path}`. Do not edit: run the command again.
//
// These are the types of the JSON protocol. Bytes are strings in base64. Dates, times, timedeltas
// and UUIDs are strings, too: "2030-01-31T12:00:00Z" is a datetime, "PT1.5S" a timedelta. A float
// that is NaN or infinite arrives as null. With MessagePack, bytes are a Uint8Array, and a datetime
// with a timezone is a Date.
"""

_STREAM_RESULT: Final = """
/** What stream() returns: IStreamResult of @microsoft/signalr. */
export interface StreamResult<T> {
  subscribe(subscriber: StreamSubscriber<T>): StreamSubscription;
}
"""

_UPLOAD: Final = """
/**
 * A stream to the server: a Subject of @microsoft/signalr, which takes nothing else, or an
 * AsyncIterable for clients that take one.
 */
export type UploadStream<T> =
  | { subscribe: (subscriber: StreamSubscriber<T>) => StreamSubscription }
  | AsyncIterable<T>;
"""

_SUBSCRIBER: Final = """
export interface StreamSubscriber<T> {
  closed?: boolean;
  next(value: T): void;
  error(error: unknown): void;
  complete(): void;
}

export interface StreamSubscription {
  dispose(): void;
}
"""

_HELPERS: Final = ("StreamResult", "StreamSubscriber", "StreamSubscription", "UploadStream")

_UNTYPED: Final = """\
  on(methodName: string, newMethod: (...args: any[]) => any): void;
  off(methodName: string, method?: (...args: any[]) => void): void;
"""


def declaration(hub: type, base: type) -> str:
    """Return the text of a `.d.ts` with the types of `hub`, a subclass of `base`.

    What the hub calls on its clients is in the argument of `base`: `class Chat(Hub[ChatClient])`.
    The same classes give the same text. Raises `ImproperlyConfigured` if the hub or its client
    cannot be described.
    """
    path = f"{hub.__module__}.{hub.__qualname__}"
    return declare(path, methods_of(hub, base), client_of(hub, base))


def declare(path: str, methods: Mapping[str, HubMethod], client: type | None) -> str:
    """Return the text of a `.d.ts` for the hub at `path`.

    `methods` is what `methods_of()` returns, and `client` a class whose public methods are those of
    the page. Without one, the page may listen to every name.
    """
    types = Types()
    hub, connection = _names(path)
    each = sorted({method.name: method for method in methods.values()}.items())
    invocations = "".join(_server_method(method, types) for _, method in each)
    callbacks = _UNTYPED
    if client is not None:
        callbacks = "".join(_client_method(method, types) for method in _client_methods(client))
    text = _HEAD.format(path=path)
    text += f"""
/** The hub {path}, as a page sees it: `const chat: {hub} = connection`. */
export interface {hub} {{
{invocations}{callbacks}}}

/** The same with the other members of a connection: `{connection}<HubConnection>`. */
export type {connection}<Connection> = {hub} &
  Omit<Connection, "invoke" | "send" | "stream" | "on" | "off">;
"""
    has_results, has_uploads = "StreamResult<" in text, "UploadStream<" in text
    text += _STREAM_RESULT * has_results + _UPLOAD * has_uploads
    text += _SUBSCRIBER * (has_results or has_uploads)
    return types.finish(text, (hub, connection, *_HELPERS))


@dataclass(frozen=True)
class _ClientMethod:
    name: str
    parameters: tuple[tuple[str, Any], ...]
    result: Any


def _client_methods(client: type) -> list[_ClientMethod]:
    """Return what a page understands: the public functions of a class and its bases, by name."""
    found: dict[str, _ClientMethod] = {}
    for attribute in sorted(name for name in dir(client) if not name.startswith("_")):
        function = inspect.getattr_static(client, attribute)
        if inspect.isfunction(function):
            method = _describe(function, attribute, f"{client.__qualname__}.{attribute}")
            if found.setdefault(method.name.lower(), method) is not method:
                raise ImproperlyConfigured(
                    f"{client.__qualname__} has two methods that pages know as {method.name}."
                )
    return sorted(found.values(), key=lambda method: method.name)


def _describe(function: Callable[..., Any], attribute: str, title: str) -> _ClientMethod:
    hints = hints_of(function, title, include_extras=True)
    _, *parameters = inspect.signature(function).parameters.values()
    for each in parameters:
        if each.kind not in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD):
            raise ImproperlyConfigured(
                f"{title}() takes {each}, which no page can: the arguments that it gets have an"
                " order and no names, and their number is fixed."
            )
    named = tuple((each.name, hints.get(each.name, Any)) for each in parameters)
    return _ClientMethod(shown_name(function, attribute), named, hints.get("return"))


def _server_method(method: HubMethod, types: Types) -> str:
    _, *parameters = inspect.signature(method.function).parameters
    given = iter(method.types)
    texts = [
        f"UploadStream<{types.text(method.streams[at], True)}>"
        if at in method.streams
        else types.text(next(given), True)
        for at in range(len(parameters))
    ]
    name = json.dumps(method.name)
    listed = ", ".join([f"methodName: {name}", *_parameters(parameters, texts, ["methodName"])])
    if method.is_stream:
        return f"  stream({listed}): StreamResult<{types.text(method.result, False)}>;\n"
    # A method that returns nothing is answered with null, which a page does not care about.
    result = "void" if method.result in (None, type(None)) else types.text(method.result, False)
    return f"  invoke({listed}): Promise<{result}>;\n  send({listed}): Promise<void>;\n"


def _client_method(method: _ClientMethod, types: Types) -> str:
    names = [name for name, _ in method.parameters]
    texts = [types.text(hint, False) for _, hint in method.parameters]
    result = "void"
    if method.result not in (None, type(None)):
        result = types.text(method.result, True)
        result = f"{result} | Promise<{result}>"
    name = f"methodName: {json.dumps(method.name)}"
    handler = f"({', '.join(_parameters(names, texts))}) => {result}"
    return f"  on({name}, newMethod: {handler}): void;\n  off({name}, method?: {handler}): void;\n"


def _parameters(names: Iterable[str], types: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Return parameters, with other names where TypeScript does not allow them or has them."""
    used = {*RESERVED_WORDS, *taken}
    found = []
    for name, type_ in zip(names, types, strict=True):
        while name in used:
            name += "_"
        used.add(name)
        found.append(f"{name}: {type_}")
    return found


def _names(path: str) -> tuple[str, str]:
    """Return the names of the interface of a hub, and of its connection."""
    stem = path.rpartition(".")[2]
    stem = stem.removesuffix("Hub") or stem
    return f"{stem}Hub", f"{stem}Connection"
