"""The types of a hub in TypeScript, beside what a hub sends and accepts."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import subprocess
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    NewType,
    Optional,
    Protocol,
    TypeVar,
    Union,
)
from uuid import UUID

import msgspec
import pydantic
import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Struct, UnsetType
from pydantic.alias_generators import to_camel
from typing_extensions import NamedTuple, NotRequired, Required, TypeAliasType, TypedDict

from tests.conftest import need_npm_package, need_program
from ws_support._hubs.messages import Completion
from ws_support._hubs.methods import hub_method_name
from ws_support._hubs.protocols import PROTOCOLS
from ws_support._hubs.typescript import declaration

if TYPE_CHECKING:
    from fractions import Fraction

JSON = PROTOCOLS["json"]

C = TypeVar("C")
T = TypeVar("T")
N = TypeVar("N", bound=int)
S = TypeVar("S", int, str)


class Hub(Generic[C]):
    clients = None

    async def on_connected(self) -> None: ...


def hub_with(*, given: tuple[Any, ...] = (), result: Any = None) -> type:
    """A hub with a method `get`, which takes and returns these types."""

    async def get(self, one, two): ...

    async def take(self): ...

    function = get if given else take
    function.__annotations__ = {**dict(zip(["one", "two"], given, strict=False)), "return": result}
    return type("Chat", (Hub,), {"get": function})


def declared(result: Any) -> str:
    """What a page is told that it gets."""
    text = declaration(hub_with(result=result), Hub)
    return re.search(r'invoke\(methodName: "Get"\): Promise<(.*)>;', text)[1]


def bodies(result: Any = None, *given: Any) -> dict[str, str]:
    """The named types by their names, each in one line."""
    given = (*given, int)[:2] if given else ()
    text = declaration(hub_with(given=given, result=result), Hub)
    _, _, text = text.partition("/** The same with")
    found = re.findall(
        r"^export (?:interface|type) (\w+) (?:= )?([^;{]+;|\{.*?^\}|.*?;)$", text, re.M | re.S
    )
    return {name: " ".join(body.removesuffix(";").split()) for name, body in found}


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    TEXT = 'a "quoted" text'
    NUMBER = 1.5
    NOTHING = None
    PAIR = (1, "a")


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class OtherNumber(int):
    pass


UserId = NewType("UserId", int)
Numbers = TypeAliasType("Numbers", list[int])
Pairs = TypeAliasType("Pairs", list[tuple[T, T]], type_params=(T,))

PLAIN = [
    (str, "string"),
    (int, "number"),
    (float, "number"),
    (bool, "boolean"),
    (bytes, "string"),
    (bytearray, "string"),
    (datetime, "string"),
    (date, "string"),
    (time, "string"),
    (timedelta, "string"),
    (UUID, "string"),
    (Decimal, "number"),
    (Any, "unknown"),
    (object, "unknown"),
    (msgspec.Raw, "unknown"),
    (None, "void"),
    (Literal["a", 1, True, None, Color.RED, -1], '"a" | 1 | true | null | "red" | -1'),
    (Literal[b"a"], '"YQ=="'),
    (Literal["a*/\n"], r'"a*/\n"'),
    (Optional[int], "number | null"),  # noqa: UP045
    (Union[int, str, float], "number | string"),  # noqa: UP007
    (int | None, "number | null"),
    (list, "unknown[]"),
    (list[int], "number[]"),
    (list[int | None], "Array<number | null>"),
    (list[list[str]], "string[][]"),
    (set[str], "string[]"),
    (frozenset[str], "string[]"),
    (Sequence[str], "string[]"),
    (tuple, "unknown[]"),
    (tuple[int, ...], "number[]"),
    (tuple[()], "[]"),
    (tuple[int, str | None], "[number, string | null]"),
    (dict, "{ [key: string]: unknown }"),
    (dict[int, bool], "{ [key: string]: boolean }"),
    (Mapping[str, list[int]], "{ [key: string]: number[] }"),
    (OrderedDict[str, int], "{ [key: string]: number }"),
    (defaultdict[str, int], "{ [key: string]: number }"),
    (dict[Literal["a", "b"], int], '{ [key in "a" | "b"]?: number }'),
    (dict[Color, int], "{ [key in Color]?: number }"),
    (dict[Rights, int], "{ [key: string]: number }"),
    (list[dict[str, int]], "Array<{ [key: string]: number }>"),
    (UserId, "number"),
    (list[UserId], "number[]"),
    (Annotated[int, msgspec.Meta(gt=3), []], "number"),
    (list[T], "unknown[]"),
    (list[N], "number[]"),
    (list[S], "Array<number | string>"),
    (Awaitable[int], "number"),
    (Rights, "number"),
    (list[Color], "Color[]"),
    (Numbers, "Numbers"),
]


@pytest.mark.parametrize(("type_", "expected"), PLAIN)
def test_a_type_is_declared_as_it_is_sent(type_, expected):
    assert declared(type_) == expected


@pytest.mark.parametrize(
    ("type_", "name"),
    [
        (json.JSONDecoder, "json.decoder.JSONDecoder"),
        (complex, "builtins.complex"),
        (OtherNumber, "tests.hubs.test_typescript.OtherNumber"),
        (Iterator[int], "collections.abc.Iterator"),
        (Callable[[int], str], "collections.abc.Callable"),
        (TypeVar("Later", bound="Path"), "ForwardRef('Path')"),
        (enum.Enum("Odd", {"A": object()}), "tests.hubs.test_typescript.Odd"),
    ],
)
def test_what_no_hub_sends_is_unknown_and_a_comment_says_what_it_is(type_, name):
    text = declaration(hub_with(result=type_), Hub)
    assert f"unknown /* {name}, which hubs do not send */" in text


# Types with a name


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0
    near: list[Point] = dataclasses.field(default_factory=list)
    _secret: str = ""
    label: str | UnsetType = UNSET
    from_class: int = dataclasses.field(default=1, init=False)
    made: list[int] = dataclasses.field(default_factory=list, init=False)


class Named(NamedTuple):
    x: int
    function: str = "a"


Untyped = namedtuple("Untyped", ["x", "y"])


class Keys(TypedDict, total=False):
    a: Required[int]
    b: int
    c: NotRequired[list[Named]]


class MoreKeys(Keys):
    d: int
    e: NotRequired[int]


class Event(Struct, rename="camel", tag=True, omit_defaults=True):
    event_id: int
    user_name: str = ""
    tags: list[str] = []
    made: Any = msgspec.field(default_factory=lambda: 5)
    label: str | UnsetType = UNSET


class Tagged(Struct, tag_field="kind", tag=3, rename={"b": "b-c"}):
    a: int
    b: int = 1


class Row(Struct, array_like=True, tag="row", omit_defaults=True, rename={"number": "1-2"}):
    a: int
    b: int = 1
    number: int = 2


class Gap(Struct, array_like=True, kw_only=True):
    a: int = 1
    b: int
    c: int = 2


class Page(Struct, Generic[T]):
    items: list[T]
    last: T | None = None
    next: Page[T] | None = None


@dataclasses.dataclass
class Box(Generic[T]):
    content: T


@dataclasses.dataclass
class Holder:
    held: Box[Annotated[str, []]]


@dataclasses.dataclass
class Plain(Box[int]):
    pass


@dataclasses.dataclass
class Both(Plain, Generic[T]):
    other: T


class Cell(TypedDict, Generic[T]):
    value: T


class Model(pydantic.BaseModel):
    plain: int
    pair: Named
    by_alias: int = pydantic.Field(alias="byAlias", default=1)
    choice: int = pydantic.Field(validation_alias=pydantic.AliasChoices("one", "two"), default=1)
    password: str = pydantic.Field(exclude=True, default="")
    changed: int = 1
    also: Annotated[int, pydantic.PlainSerializer(str)] = 1

    @pydantic.field_serializer("changed")
    def change(self, value: int) -> str:
        return str(value)

    @pydantic.computed_field
    @property
    def twice(self) -> int:
        return 2 * self.plain


class CamelModel(pydantic.BaseModel):
    model_config = {
        "alias_generator": to_camel,
        "serialize_by_alias": True,
    }
    user_name: str


class EitherModel(CamelModel):
    model_config = {"populate_by_name": True, "serialize_by_alias": False}


class OddModel(pydantic.BaseModel):
    a: int

    @pydantic.model_serializer
    def write(self) -> str:
        return "odd"


class Tree(pydantic.RootModel[list["Tree"]]):
    pass


@pydantic.dataclasses.dataclass
class Checked:
    a: int
    b: int = pydantic.Field(default=1)


NAMED = [
    (Color, {"Color": '"red" | "blue"'}),
    (Level, {"Level": "1 | 2"}),
    (Mixed, {"Mixed": r'"a \"quoted\" text" | 1.5 | null | [1, "a"]'}),
    (enum.Enum("Empty", []), {"Empty": "never"}),
    (Point, {"Point": "{ x: number; y: number; near: Point[]; _secret: string; label?: string;"
                      " from_class?: number; made: number[]; }"}),
    (Named, {"Named": "[x: number, function: string]"}),
    (Untyped, {"Untyped": "[x: unknown, y: unknown]"}),
    (Keys, {"Keys": "{ a: number; b?: number; c?: Named[]; }",
            "Named": "[x: number, function: string]"}),
    (MoreKeys, {"MoreKeys": "{ a: number; b?: number; c?: Named[]; d: number; e?: number; }",
                "Named": "[x: number, function: string]"}),
    (Event, {"Event": '{ type: "Event"; eventId: number; userName?: string; tags?: string[];'
                      " made: unknown; label?: string; }"}),
    (Tagged, {"Tagged": '{ kind: 3; a: number; "b-c": number; }'}),
    (Row, {"Row": '[type: "row", a: number, b: number, _1_2: number]'}),
    (Gap, {"Gap": "[a: number, b: number, c: number]"}),
    (Page, {"Page": "{ items: unknown[]; last: unknown | null; next: Page | null; }"}),
    (Page[int], {"PageInt": "{ items: number[]; last: number | null; next: PageInt | null; }"}),
    (Page[list[Color]], {"PageListColor": "{ items: Color[][]; last: Color[] | null;"
                                          " next: PageListColor | null; }",
                         "Color": '"red" | "blue"'}),
    (Box[Annotated[str, []]], {"BoxStr": "{ content: string; }"}),
    (Holder, {"Holder": "{ held: BoxStr; }", "BoxStr": "{ content: string; }"}),
    (Both[str], {"BothStr": "{ content: number; other: string; }"}),
    (Cell[str], {"CellStr": "{ value: string; }"}),
    (CamelModel, {"CamelModel": "{ userName: string; }"}),
    (EitherModel, {"EitherModel": "{ user_name: string; }"}),
    (OddModel, {"OddModel": "unknown"}),
    (Tree, {"Tree": "Tree[]"}),
    (Numbers, {"Numbers": "number[]"}),
    (Pairs[int], {"PairsInt": "Array<[number, number]>"}),
    (Checked, {"Checked": "{ a: number; b: number; }"}),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "expected"), NAMED)
def test_a_class_is_declared_as_it_is_sent(type_, expected):
    found = bodies(type_)
    assert found == expected


READ = [
    (Point, b'{"x":1}', {"Point": "{ x: number; y?: number; near?: Point[]; _secret?: string;"
                         " label?: string; from_class?: number; made?: number[]; }"}),
    (Named, b"[1]", {"Named": "[x: number, function?: string]"}),
    (MoreKeys, b'{"a":1,"d":1}',
     {"MoreKeys": "{ a: number; b?: number; c?: Named[]; d: number; e?: number; }",
      "Named": "[x: number, function?: string]"}),
    (Event, b'{"type":"Event","eventId":1}',
     {"Event": '{ type: "Event"; eventId: number; userName?: string; tags?: string[];'
               " made?: unknown; label?: string; }"}),
    (Tagged, b'{"kind":3,"a":1}', {"Tagged": '{ kind: 3; a: number; "b-c"?: number; }'}),
    (Row, b'["row",1]', {"Row": '[type: "row", a: number, b?: number, _1_2?: number]'}),
    (Gap, b"[1,2]", {"Gap": "[a: number, b: number, c?: number]"}),
    (Model, b'{"plain":1,"pair":[1]}',
     {"Model": "{ plain: number; pair: Named; byAlias?: number; one?: number; password?: string;"
               " changed?: number; also?: number; }",
      "Named": "[x: number, function?: string]"}),
    (CamelModel, b'{"userName":"a"}', {"CamelModel": "{ userName: string; }"}),
    (EitherModel, b'{"user_name":"a"}', {"EitherModel": "{ user_name: string; }"}),
    (OddModel, b'{"a":1}', {"OddModel": "{ a: number; }"}),
    (Tree, b"[[]]", {"Tree": "Tree[]"}),
    (Checked, b'{"a":1}', {"Checked": "{ a: number; b?: number; }"}),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "shortest", "expected"), READ)
def test_a_client_may_leave_out_what_has_a_default(type_, shortest, expected):
    assert bodies(None, type_) == expected
    JSON.value(msgspec.Raw(shortest), type_)


def test_a_class_with_two_forms_has_an_interface_for_each():
    @dataclasses.dataclass
    class Outer:
        model: Model
        color: Color

    found = bodies(Outer, Outer)
    assert found["Outer"] == "{ model: Model; color: Color; }"
    assert found["OuterInput"] == "{ model: ModelInput; color: Color; }"
    assert found["Model"] == (
        "{ plain: number; pair: Named; by_alias: number; choice: number; changed: unknown;"
        " also: unknown; twice: number; }"
    )
    assert found["ModelInput"].startswith("{ plain: number; pair: NamedInput; byAlias?: number;")
    assert set(found) == {
        *("Outer", "OuterInput", "Model", "ModelInput", "Named", "NamedInput", "Color"),
    }


def test_a_class_whose_annotations_cannot_be_read_is_an_error():
    @dataclasses.dataclass
    class Price:
        amount: Fraction

    with pytest.raises(ImproperlyConfigured, match=r"annotations of .*Price cannot be read.*Frac"):
        declared(Price)


# Names


def class_in(module: str, name: str, *outer: str) -> type:
    made = dataclasses.make_dataclass(name, [(module.rpartition(".")[2], int)])
    made.__module__, made.__qualname__ = module, ".".join([*outer, name])
    return made


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ([class_in("chat.models", "Point")], ["Point"]),
        ([class_in("chat.models", "point")], ["point"]),
        (
            [class_in("chat.models", "Point"), class_in("shop.models", "Point")],
            ["ChatModelsPoint", "ShopModelsPoint"],
        ),
        (
            [class_in("m", "Point", "Room"), class_in("m", "Point", "Hall")],
            ["HallPoint", "RoomPoint"],
        ),
        (
            [class_in("m", "Point", "go", "<locals>"), class_in("m", "Point", "go", "<locals>")],
            ["MGoPoint", "MGoPoint2"],
        ),
        ([class_in("chat.models", "ChatHub")], ["ChatModelsChatHub"]),
        ([class_in("chat", "Hub"), class_in("shop", "Hub")], ["ChatHub2", "ShopHub"]),
        ([class_in("chat.models", "StreamResult")], ["ChatModelsStreamResult"]),
        ([class_in("chat.models", "Promise")], ["ChatModelsPromise"]),
        ([class_in("chat.models", "string")], ["ChatModelsString"]),
        ([class_in("chat.models", "function")], ["ChatModelsFunction"]),
    ],
)
def test_two_classes_never_have_one_name(classes, names):
    for each in (classes, classes[::-1]):
        assert sorted(bodies(tuple[tuple(each)])) == names


# Hubs


class ChatClient(Protocol):
    greeting = "Hello"

    async def receive_message(self, user: str, message: Point) -> None: ...

    def ask(self, default: str, function: int) -> bool: ...

    @hub_method_name("news")
    def tell(self, anything): ...

    def _private(self) -> None: ...


class Chat(Hub[ChatClient]):
    async def send_message(self, user: str, message: str, methodName: int) -> None: ...  # noqa: N803

    async def count(self, upTo: int) -> AsyncIterator[Color]:  # noqa: N803
        yield Color.RED

    async def upload(self, first: int, parts: AsyncIterator[Point], last: str) -> int:
        return first

    @hub_method_name("Ban")
    async def remove_from_room(self, name: str) -> bool: ...

    async def anything(self, what): ...


def test_a_hub_is_declared_with_its_methods_and_those_of_its_clients():
    text = declaration(Chat, Hub)
    members = re.search(r"^export interface ChatHub \{\n(.*?)^\}", text, re.M | re.S)[1]
    assert members.splitlines() == [
        '  invoke(methodName: "Anything", what: unknown): Promise<unknown>;',
        '  send(methodName: "Anything", what: unknown): Promise<void>;',
        '  invoke(methodName: "Ban", name: string): Promise<boolean>;',
        '  send(methodName: "Ban", name: string): Promise<void>;',
        '  stream(methodName: "Count", upTo: number): StreamResult<Color>;',
        '  invoke(methodName: "SendMessage", user: string, message: string, methodName_: number):'
        " Promise<void>;",
        '  send(methodName: "SendMessage", user: string, message: string, methodName_: number):'
        " Promise<void>;",
        '  invoke(methodName: "Upload", first: number, parts: UploadStream<PointInput>,'
        " last: string): Promise<number>;",
        '  send(methodName: "Upload", first: number, parts: UploadStream<PointInput>,'
        " last: string): Promise<void>;",
        '  on(methodName: "Ask", newMethod: (default_: string, function_: number) =>'
        " boolean | Promise<boolean>): void;",
        '  off(methodName: "Ask", method?: (default_: string, function_: number) =>'
        " boolean | Promise<boolean>): void;",
        '  on(methodName: "ReceiveMessage", newMethod: (user: string, message: Point) => void):'
        " void;",
        '  off(methodName: "ReceiveMessage", method?: (user: string, message: Point) => void):'
        " void;",
        '  on(methodName: "news", newMethod: (anything: unknown) => void): void;',
        '  off(methodName: "news", method?: (anything: unknown) => void): void;',
    ]


def test_a_text_says_how_it_was_made_and_is_the_same_each_time():
    text = declaration(Chat, Hub)
    command = "manage.py hub_types tests.hubs.test_typescript.Chat"
    assert text.startswith(f"// Made by `{command}`. Do not edit: run the command again.\n")
    assert text.endswith("}\n")
    assert not text.endswith("\n\n")
    assert text == declaration(Chat, Hub)


def test_a_hub_without_a_client_may_call_everything_on_its_pages():
    text = declaration(hub_with(), Hub)
    assert "  on(methodName: string, newMethod: (...args: any[]) => any): void;\n" in text


def test_only_what_a_hub_needs_is_declared():
    assert "Stream" not in declaration(hub_with(), Hub)


@pytest.mark.parametrize("argument", [T, Any, list[int]])
def test_an_argument_that_is_no_class_is_no_client(argument):
    class Open(Hub[argument]): ...

    assert "on(methodName: string" in declaration(Open, Hub)


def test_a_hub_has_the_client_of_the_hub_that_it_extends():
    class Base(Hub[C], Generic[C]): ...

    class Middle(Base[ChatClient]): ...

    class Last(Middle, Generic[T]): ...

    assert '"ReceiveMessage"' in declaration(Last, Hub)


def test_a_hub_named_hub_is_not_named_twice():
    names = re.findall(r"^export \w+ (\w+)", declaration(type("ChatHub", (Hub,), {}), Hub), re.M)
    assert names == ["ChatHub", "ChatConnection"]
    names = re.findall(r"^export \w+ (\w+)", declaration(type("Hub", (Hub,), {}), Hub), re.M)
    assert names == ["HubHub", "HubConnection"]


class TwiceClient(Protocol):
    def one_name(self) -> None: ...

    def OneName(self) -> None: ...  # noqa: N802


class AnyNumberClient(Protocol):
    def say(self, *words: str) -> None: ...


class UnreadableClient(Protocol):
    def pay(self, amount: Fraction) -> None: ...


@pytest.mark.parametrize(
    ("client", "problem"),
    [
        (TwiceClient, r"TwiceClient has two methods that pages know as OneName"),
        (AnyNumberClient, r"AnyNumberClient.say\(\) takes \*words: '?str'?, which no page can"),
        (UnreadableClient, r"UnreadableClient.pay\(\) cannot be read: .*Fraction"),
    ],
)
def test_a_client_that_no_page_can_be_is_an_error(client, problem):
    class Wrong(Hub[client]): ...

    with pytest.raises(ImproperlyConfigured, match=problem):
        declaration(Wrong, Hub)


# Compiled

PAGE = """\
import { HubConnection, Subject } from "@microsoft/signalr";
import { ChatConnection, ChatHub, Color, Point, UploadStream } from "./chat";

export async function use(connection: HubConnection, numbers: AsyncIterable<number>) {
  const chat: ChatHub = connection;
  const same = connection as ChatHub;
  const whole: ChatConnection<HubConnection> = connection;
  await whole.start();
  console.log(whole.connectionId, same === chat);

  const nothing: void = await chat.invoke("SendMessage", "Ann", "Hello", 1);
  const isBanned: boolean = await whole.invoke("Ban", "Ann");
  const what: unknown = await chat.invoke("Anything", { of: ["any", "form"] });
  await chat.send("SendMessage", "Ann", "Hello", 1);
  console.log(nothing, isBanned, what);
  // @ts-expect-error
  await chat.invoke("SendMessage", "Ann", 1, "Hello");
  // @ts-expect-error
  await chat.invoke("SendMessage", "Ann", "Hello");
  // @ts-expect-error
  await chat.invoke("SendMessage", "Ann", "Hello", 1, 2);
  // @ts-expect-error
  await chat.send("SendMessage", "Ann", "Hello", "1");
  // @ts-expect-error
  await chat.invoke("Nothing");
  // @ts-expect-error
  await whole.invoke("Nothing");
  // @ts-expect-error
  const wrong: string = await chat.invoke("Ban", "Ann");

  const subscription = chat.stream("Count", 3).subscribe({
    next: (color) => {
      const known: Color = color;
      // @ts-expect-error
      const unknown: "green" = color;
    },
    error: (error) => console.log(error),
    complete() {},
  });
  subscription.dispose();
  // @ts-expect-error
  chat.stream("Count", "3");
  // @ts-expect-error
  chat.stream("Ban", "Ann");
  // @ts-expect-error
  await chat.invoke("Count", 3);

  const points = new Subject<{ x: number }>();
  const count: number = await chat.invoke("Upload", 1, points, "last");
  points.next({ x: count });
  async function* more() {
    yield { x: 1, near: [{ x: 2, y: 3 }] };
  }
  await chat.send("Upload", 1, more(), "last");
  // @ts-expect-error
  await chat.send("Upload", 1, new Subject<string>(), "last");
  // @ts-expect-error
  await chat.send("Upload", 1, numbers, "last");
  // @ts-expect-error
  await chat.send("Upload", 1, [{ x: 1 }], "last");
  const mine: UploadStream<number> = numbers;

  const listener = (user: string, message: Point) => console.log(user.length, message.near[0].y);
  chat.on("ReceiveMessage", listener);
  chat.on("ReceiveMessage", (user, message) => console.log(user.length, message.y + 1));
  chat.on("ReceiveMessage", async () => {});
  chat.off("ReceiveMessage", listener);
  chat.off("ReceiveMessage");
  chat.on("Ask", () => true);
  whole.on("Ask", async (question) => question.length > 1);
  chat.on("news", (anything) => console.log(anything));
  // @ts-expect-error
  chat.on("ReceiveMessage", (user: number) => console.log(user));
  // @ts-expect-error
  chat.on("ReceiveMessage", (user, message) => message.z);
  // @ts-expect-error
  chat.on("Ask", () => "yes");
  // @ts-expect-error
  chat.on("Ask", async () => {});
  // @ts-expect-error
  chat.off("Receive");
  // @ts-expect-error
  chat.off("ReceiveMessage", (user: number) => console.log(user));
  console.log(mine, wrong);
}
"""


def compiled(folder: Path, **files: str) -> str:
    """What the compiler says about these files."""
    compiler = need_npm_package("typescript") / "bin" / "tsc"
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    options = {
        "strict": True,
        "noEmit": True,
        "target": "es2022",
        "module": "es2022",
        "moduleResolution": "bundler",
        "lib": ["es2022", "dom"],
        "types": [],
        "paths": {"@microsoft/signalr": [str(need_npm_package("@microsoft/signalr"))]},
    }
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": options}))
    run = subprocess.run(
        [need_program("node"), compiler, "--project", folder],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0 or run.stdout, run.stderr
    return run.stdout


@pytest.mark.slow
def test_right_calls_compile_and_wrong_ones_do_not(tmp_path):
    text = declaration(Chat, Hub)
    assert compiled(tmp_path, chat_d_ts=text, page_ts=PAGE) == ""


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
numbers = st.integers(-(2**53), 2**53)
floats = st.floats(allow_nan=False, allow_infinity=False)
points = st.recursive(
    st.builds(Point, x=numbers, label=st.just(UNSET)),
    lambda points: st.builds(
        Point, x=numbers, near=st.lists(points, max_size=2), label=texts | st.just(UNSET)
    ),
    max_leaves=4,
)
pairs = st.builds(Named, numbers, texts)
keys = st.fixed_dictionaries({"a": numbers}, optional={"b": numbers, "c": st.lists(pairs)})
rows = st.builds(Row, numbers, numbers, numbers)
trees = st.recursive(st.builds(Tree, st.just([])), lambda trees: st.builds(Tree, st.lists(trees)))
pages = st.recursive(
    st.builds(Page, st.lists(numbers)),
    lambda pages: st.builds(Page, st.lists(numbers), st.none() | numbers, pages),
    max_leaves=3,
)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: texts,
    int: numbers,
    float: floats,
    bool: st.booleans(),
    bytes: st.binary(),
    datetime: st.datetimes() | st.datetimes(timezones=st.timezones()),
    date: st.dates(),
    time: st.times(),
    timedelta: st.timedeltas(),
    UUID: st.uuids(),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    Any: st.none() | texts | st.lists(numbers) | points,
    Literal["a", 1, None]: st.sampled_from(["a", 1, None]),
    list[float | None] | None: st.none() | st.lists(st.none() | floats),
    set[int | str]: st.sets(numbers | texts),
    tuple[int, str | None]: st.tuples(numbers, st.none() | texts),
    tuple[Color, ...]: st.lists(st.sampled_from(Color)).map(tuple),
    dict[int, bool]: st.dictionaries(numbers, st.booleans()),
    dict[float, UUID]: st.dictionaries(floats, st.uuids()),
    dict[date, None]: st.dictionaries(st.dates(), st.none()),
    dict[Color, int]: st.dictionaries(st.sampled_from(Color), numbers),
    dict[Level, int]: st.dictionaries(st.sampled_from(Level), numbers),
    dict[Literal["a", "b"], int]: st.dictionaries(st.sampled_from("ab"), numbers),
    Color: st.sampled_from(Color),
    Level: st.sampled_from(Level),
    Mixed: st.sampled_from(Mixed),
    Rights: st.sampled_from([Rights.READ, Rights.READ | Rights.WRITE, Rights(0)]),
    Point: points,
    Named: pairs,
    Untyped: st.builds(Untyped, numbers, texts),
    Keys: keys,
    MoreKeys: st.builds(lambda keys, d: {**keys, "d": d}, keys, numbers),
    Event: st.builds(Event, numbers, texts, st.lists(texts), label=texts | st.just(UNSET)),
    Tagged: st.builds(Tagged, numbers, numbers),
    Row: rows,
    Gap: st.builds(Gap, a=numbers, b=numbers, c=numbers),
    Row | Tagged | None: rows | st.builds(Tagged, numbers) | st.none(),
    Page[int]: pages,
    Box[Point]: st.builds(Box, points),
    Both[str]: st.builds(Both, numbers, texts),
    Model: st.builds(Model, plain=numbers, pair=pairs),
    CamelModel: st.builds(CamelModel, userName=texts),
    EitherModel: st.builds(EitherModel, user_name=texts),
    OddModel: st.builds(OddModel, a=numbers),
    Tree: trees,
    Pairs[Color]: st.lists(st.tuples(st.sampled_from(Color), st.sampled_from(Color))),
    Checked: st.builds(Checked, numbers, numbers),
}


def examples(strategy: st.SearchStrategy[Any]) -> list[Any]:
    found = []

    @settings(
        max_examples=8,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


@pytest.mark.slow
def test_what_a_hub_sends_is_what_it_has_declared(tmp_path):
    values = {type_: examples(strategy) for type_, strategy in VALUES.items()}
    hub = type("Chat", (Hub,), {})
    for at, type_ in enumerate(values):

        async def get(self): ...

        get.__annotations__ = {"return": type_}
        setattr(hub, f"get_{at}", get)
    text = declaration(hub, Hub)
    for at, type_ in enumerate(values):
        declared = re.search(rf'invoke\(methodName: "Get{at}"\): Promise<(.*)>;', text)[1]
        for number, value in enumerate(values[type_]):
            written = JSON.write(Completion("0", value, has_result=True)).removesuffix(b"\x1e")
            result = written.partition(b'"result":')[2].removesuffix(b"}").decode()
            text += f"const value{at}_{number}: {declared} = {result};\n"
    assert compiled(tmp_path, values_ts=text) == ""
