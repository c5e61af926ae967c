"""Presence on Redis: a hash for each topic, and a key for the lease of each worker.

A field of the hash is an entry: its id, and its JSON. The field with the empty name holds the
epoch, the version, and the number of entries of each worker. The hash stays for a while when
everybody has left: without it, there is another epoch, as after a loss.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Final

from ws_support._topics.brokers.redis.address import Address
from ws_support._topics.brokers.redis.envelope import Envelope
from ws_support._topics.brokers.redis.publisher import Publisher
from ws_support._topics.brokers.redis.scripts import Script
from ws_support._topics.presence.entries import difference_topic
from ws_support._topics.presence.storage import KEEP, LEASE, MOST, PresenceStorage, Stored

_LEASES: Final = "ws_support.presence"
"""The topic of all leases: their keys have one hash tag, so that one script may name several."""

_CHUNK: Final = 1000
"""The most leases that are asked for in one call."""

_PUBLISHER: Final = b"ws.presence "
"""Differences have a version, so they need no numbers: each has the number 1, as that of a
publisher that starts again."""

_FUNCTIONS: Final = """
local function about(fresh)
  local text = redis.call('HGET', KEYS[1], '')
  if text then return cjson.decode(text) end
  return {epoch = fresh, version = 0, workers = {}}
end

local function count(workers, id, by)
  local worker = string.match(id, '^[^:]*')
  local number = (workers[worker] or 0) + by
  workers[worker] = number > 0 and number or nil
end

local function publish(topic, joined, left, ttl, channel, head)
  topic.version = topic.version + 1
  redis.call('PUBLISH', channel, head .. '{"epoch":"' .. topic.epoch
    .. '","version":' .. string.format('%.0f', topic.version)
    .. ',"joined":{' .. table.concat(joined, ',')
    .. '},"left":[' .. table.concat(left, ',') .. ']}')
  redis.call('HSET', KEYS[1], '', cjson.encode(topic))
  redis.call('PEXPIRE', KEYS[1], ttl)
end
"""

_CHANGE: Final = Script(f"""{_FUNCTIONS}
local topic = about(ARGV[1])
local joined, left = {{}}, {{}}
local at = 6
for _ = 1, tonumber(ARGV[5]) do
  local id, entry = ARGV[at], ARGV[at + 1]
  local before = redis.call('HGET', KEYS[1], id)
  if before ~= entry then
    redis.call('HSET', KEYS[1], id, entry)
    table.insert(joined, '"' .. id .. '":' .. entry)
    if not before then count(topic.workers, id, 1) end
  end
  at = at + 2
end
for index = at, #ARGV do
  local id = ARGV[index]
  if redis.call('HDEL', KEYS[1], id) == 1 then
    table.insert(left, '"' .. id .. '"')
    count(topic.workers, id, -1)
  end
end
if #joined + #left > 0 then publish(topic, joined, left, ARGV[2], ARGV[3], ARGV[4]) end
""")

_REMOVE: Final = Script(f"""{_FUNCTIONS}
local topic = about(ARGV[1])
local worker, most = ARGV[5], tonumber(ARGV[6])
if not topic.workers[worker] then return 0 end
local prefix, left, has_more = worker .. ':', {{}}, 0
for _, id in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(id, 1, #prefix) == prefix then
    if #left == most then
      has_more = 1
      break
    end
    redis.call('HDEL', KEYS[1], id)
    table.insert(left, '"' .. id .. '"')
    count(topic.workers, id, -1)
  end
end
if has_more == 0 then topic.workers[worker] = nil end
publish(topic, {{}}, left, ARGV[2], ARGV[3], ARGV[4])
return has_more
""")

_KEEP: Final = Script("""
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('HGET', KEYS[1], '')
""")

_READ: Final = Script("return redis.call('HGETALL', KEYS[1])")

_LEASE: Final = Script("""
if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 1 then return 1 end
redis.call('SET', KEYS[2], '', 'PX', ARGV[1])
return 0
""")

_LIVING: Final = Script("return redis.call('MGET', unpack(KEYS))")

_Call = Callable[[Publisher], Coroutine[Any, Any, Any]]
_Use = Callable[[Address, _Call], Coroutine[Any, Any, Any]]


class RedisPresence(PresenceStorage):
    """Keeps who is present under the topics of one Redis.

    Everything about a topic has the name of the topic of its differences, so that in a cluster all
    is on one node. `use` lends the publisher of a Redis.
    """

    def __init__(self, address: Address, use: _Use) -> None:
        self._address = address
        self._use = use
        self.outages = address.outages()

    async def lease(self, worker: str, successor: str) -> bool:
        keys = [self._lease_key(worker), self._lease_key(successor)]
        return bool(await self._call(_LEASE, keys, [_milliseconds(LEASE)]))

    async def living(self, workers: Collection[str]) -> set[str]:
        names = list(workers)
        found = set()
        for at in range(0, len(names), _CHUNK):
            chunk = names[at : at + _CHUNK]
            answers = await self._call(_LIVING, [self._lease_key(each) for each in chunk], [])
            found |= {each for each, value in zip(chunk, answers, strict=True) if value is not None}
        return found

    async def change(self, topic: str, joined: Mapping[str, str], left: Collection[str]) -> None:
        pairs = [part.encode() for pair in joined.items() for part in pair]
        ids = [each.encode() for each in left]
        await self._change(_CHANGE, topic, b"%d" % len(joined), *pairs, *ids)

    async def remove(self, topic: str, worker: str) -> None:
        while await self._change(_REMOVE, topic, worker.encode(), b"%d" % MOST):
            pass  # There are more.

    async def _change(self, script: Script, topic: str, *arguments: bytes) -> Any:
        name = difference_topic(topic)
        message = {"type": "websocket.send", "text": ""}
        head = Envelope(name, message).write(_PUBLISHER, 1, 0)
        epoch = secrets.token_hex(4).encode()
        common = (epoch, _milliseconds(KEEP), self._address.channel(name), head)
        return await self._call(script, [self._key(topic)], [*common, *arguments])

    async def keep(self, topic: str) -> dict[str, int]:
        about = await self._call(_KEEP, [self._key(topic)], [_milliseconds(KEEP)])
        workers: dict[str, int] = json.loads(about)["workers"] if about else {}
        return workers

    async def read(self, topic: str) -> Stored:
        answer = await self._call(_READ, [self._key(topic)], [])
        entries = dict(zip(answer[::2], answer[1::2], strict=True))
        if not entries:
            return Stored("", 0, {})
        about = json.loads(entries.pop(b""))
        texts = {each.decode(): text.decode() for each, text in entries.items()}
        return Stored(about["epoch"], about["version"], texts)

    async def _call(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Any:
        return await self._use(self._address, lambda each: each.call(script, keys, arguments))

    def _key(self, topic: str) -> bytes:
        return self._address.key("presence", difference_topic(topic))

    def _lease_key(self, worker: str) -> bytes:
        return self._address.key(f"lease:{worker}", _LEASES)


def _milliseconds(seconds: float) -> bytes:
    return b"%d" % (seconds * 1000)
