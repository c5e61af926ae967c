"""Histories on Redis: a stream for each topic, and the position of its last message."""

from __future__ import annotations

from typing import Any, Final

from ws_support._topics.brokers.base import Entry, Keeping, Log
from ws_support._topics.brokers.memory import KEEP_BEGINNING, KEEP_POSITION, SIZE
from ws_support._topics.brokers.redis.envelope import read_entry, write_entry
from ws_support._topics.brokers.redis.scripts import Script
from ws_support._topics.positions import Position, mark

KEYS: Final = ("log", "position")
"""The kinds of data: a stream, and a string."""

_MOST: Final = 1000
"""The most entries of one reading. Redis answers nobody else while it collects them."""

APPEND: Final = Script("""
local previous = redis.call('GET', KEYS[2])
if not previous or not string.match(previous, '^%d+%-%d+$') then
  redis.call('DEL', KEYS[1])
  previous = '0-' .. ARGV[1]
end
local offset = tonumber(string.match(previous, '^%d+')) + 1
local position = string.format('%.0f-%s', offset, ARGV[2])
local function add(call)
  return call('XADD', KEYS[1], 'MAXLEN', ARGV[3], position, 'p', previous, 'd', ARGV[6])
end
local added = add(redis.pcall)
if type(added) == 'table' and added.err then
  if not string.find(added.err, 'equal or smaller') then return added end
  redis.call('DEL', KEYS[1])
  add(redis.call)
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SET', KEYS[2], position, 'PX', ARGV[5])
local takers = redis.call('PUBLISH', ARGV[7], 'h ' .. position .. ' ' .. previous .. ' ' .. ARGV[6])
return {position, takers}
""")
"""Append an entry to the stream, note its position, and publish it. Each entry names the position
before it: a stream that was lost, or restored from an older copy, does not fit what came before. A
position that somebody else has overwritten is lost, and so is a stream with an entry of somebody
else that is newer."""

READ: Final = Script("""
local top = redis.call('GET', KEYS[2])
if not top or not string.match(top, '^%d+%-%d+$') then
  top = '0-' .. ARGV[1]
  redis.call('DEL', KEYS[1])
  redis.call('SET', KEYS[2], top, 'PX', ARGV[2])
end
local keep = string.sub(top, 1, 2) == '0-' and ARGV[2] or ARGV[3]
if redis.call('PTTL', KEYS[2]) < tonumber(keep) then redis.call('PEXPIRE', KEYS[2], keep) end
local since, size, most, limit = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local found = {}
if limit == 0 or since == top then
  return {1, top, top, found}
end
local before
if since == '' then
  before = math.max(tonumber(string.match(top, '^%d+')) - limit, 0)
else
  before = tonumber(string.match(since, '^%d+'))
end
local first = string.format('%.0f-0', before + 1)
local entries = redis.call('XRANGE', KEYS[1], first, '+', 'COUNT', 1)
if since == '' and not entries[1] then
  return {1, top, top, found}
end
if since ~= '' and (not entries[1] or entries[1][2][2] ~= since) then
  return {0, top, top, found}
end
local position = since
most = math.min(most, limit)
while #found < most and position ~= top do
  entries = redis.call('XRANGE', KEYS[1], first, '+', 'COUNT', math.min(16, most - #found))
  for at = 1, #entries do
    local data = entries[at][2][4]
    size = size - #data
    if #found > 0 and size < 0 then return {1, top, position, found} end
    position = entries[at][1]
    table.insert(found, {position, data})
  end
  if #entries == 0 then return redis.error_reply('ERR the history of a topic is damaged') end
  first = string.format('%.0f-0', tonumber(string.match(position, '^%d+')) + 1)
end
return {1, top, position, found}
""")
"""Return if the stream has all since a position, the last position, that of the reading, and the
entries. A topic without a position gets one, so that who begins to read now knows later whether
something was lost. A position stays known for some time after each reading."""


def append_arguments(message: Any, keeping: Keeping, channel: bytes) -> list[bytes]:
    """Return the arguments of `APPEND`."""
    return [
        b"%d" % mark(),
        b"%d" % mark(),
        b"%d" % keeping.most,
        _milliseconds(keeping.seconds),
        _milliseconds(keeping.seconds + KEEP_POSITION),
        write_entry(message),
        channel,
    ]


def read_arguments(since: Position | None, limit: int) -> list[bytes]:
    """Return the arguments of `READ`."""
    return [
        b"%d" % mark(),
        _milliseconds(KEEP_BEGINNING),
        _milliseconds(KEEP_POSITION),
        (since or "").encode(),
        b"%d" % SIZE,
        b"%d" % _MOST,
        b"%d" % limit,
    ]


def log_of(answer: Any) -> Log:
    """Return what `READ` has answered."""
    is_complete, top, position, found = answer
    entries = []
    for at, data in found:
        message = read_entry(data)
        if message is not None:  # Somebody else has written there.
            entries.append(Entry(at.decode(), message))
    return Log(entries, position.decode(), bool(is_complete), has_more=position != top)


def _milliseconds(seconds: float) -> bytes:
    return b"%d" % max(seconds * 1000, 1)
