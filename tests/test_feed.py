"""A topic with history whose messages come late, twice, in disorder, or never: nobody is misled."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest
from django.test import override_settings
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.test_connection import eventually
from ws_support._asyncio import Backoff
from ws_support._topics import feed
from ws_support._topics.brokers.base import Appended, BrokerError, BrokerUnavailable, Keeping, Log
from ws_support._topics.brokers.local import LocalBroker
from ws_support._topics.brokers.memory import histories
from ws_support._topics.registry import TopicRegistry

KEPT = 5
_names = count()


class Unreliable(LocalBroker):
    """Keeps what is published, and delivers it when it is told to, if at all."""

    def __init__(self, receiver):
        super().__init__(receiver)
        self.receiver = receiver
        self.on_the_way = []
        self.is_away = False
        self.error = None
        """What is raised to those who read from the `unreadable` position."""
        self.unreadable = None

    async def append(self, topic, message, keeping):
        with histories().lock:
            position, previous = histories().append(topic, message, keeping)
        self.on_the_way.append((topic, message, position, previous))
        return Appended(position, 0)

    async def read(self, topic, since, limit):
        await asyncio.sleep(0)
        if self.is_away:
            raise BrokerUnavailable("it is away")
        if self.error is not None and since == self.unreadable:
            raise self.error
        log = await super().read(topic, since, min(limit, 2))
        await asyncio.sleep(0)
        return log


class Reader:
    """Notes what comes: messages, and that something is missing."""

    def __init__(self, began_at):
        self.topics = set()
        self.topics_length = 0
        self.heard = began_at
        """The number of the last message, as far as the reader knows."""
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.position = None
        self.joining = None

    def push(self, published):
        number = int(published.message["text"])
        assert self.heard is None or number == self.heard + 1, f"{number} after {self.heard}"
        self.heard = number
        self.position = published.position
        return False

    async def replay(self, published):
        await self.may_read.wait()
        self.push(published)

    def gap(self, topic, position):
        self.heard, self.position = None, position


class Feeds(RuleBasedStateMachine):
    """Readers of one topic, and what they know of the messages that were published."""

    @initialize()
    def begin(self):
        self.loop = asyncio.new_event_loop()
        self.raised = []
        self.loop.set_exception_handler(lambda loop, context: self.raised.append(context))
        self.options = override_settings(
            CHANNEL_LAYERS={}, WS_SUPPORT={"TOPICS": {"<path:name>": {"history": KEPT}}}
        )
        self.options.enable()
        self.topic = f"feed {next(_names)}"
        self.registry = TopicRegistry()
        self.broker = self.registry.broker = Unreliable(self.registry)
        self.published = 0
        self.positions = {}
        self.readers = []

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    async def settle(self):
        for _ in range(60):
            await asyncio.sleep(0)

    # What publishers and the network do

    @rule()
    def publish(self):
        message = {"type": "websocket.send", "text": str(self.published)}
        position, _ = self.run(self.broker.append(self.topic, message, Keeping(KEPT, 600)))
        self.positions[position] = self.published
        self.published += 1

    @precondition(lambda self: self.broker.on_the_way)
    @rule(at=st.integers(0, 2), is_kept=st.sampled_from([False, False, True]))
    def deliver(self, at, is_kept):
        at = min(at, len(self.broker.on_the_way) - 1)
        message = self.broker.on_the_way[at]
        if not is_kept:
            del self.broker.on_the_way[at]
        self.run(self.handing_over(message))

    async def handing_over(self, message):
        self.registry.deliver_kept(*message)

    @precondition(lambda self: self.broker.on_the_way)
    @rule()
    def deliver_all(self):
        while self.broker.on_the_way:
            self.deliver(0, is_kept=False)

    @precondition(lambda self: self.broker.on_the_way)
    @rule()
    def lose(self):
        del self.broker.on_the_way[0]

    @rule()
    def go_away(self):
        self.broker.is_away = True

    @rule()
    def lose_the_history(self):
        with histories().lock:
            histories()._histories.pop(self.topic, None)

    # What readers do

    @rule(is_slow=st.booleans())
    def subscribe(self, is_slow):
        reader = Reader(None)
        if is_slow:
            reader.may_read.clear()
        self.readers.append(reader)
        self.join(reader, None)

    @precondition(lambda self: self.positions)
    @rule(is_slow=st.booleans(), back=st.integers(0, KEPT + 1))
    def resume(self, is_slow, back):
        """From one of the last positions, also from one that is no longer kept."""
        position = list(self.positions)[-1 - min(back, len(self.positions) - 1)]
        reader = Reader(self.positions[position])
        if is_slow:
            reader.may_read.clear()
        self.readers.append(reader)
        self.join(reader, position)

    def join(self, reader, since):
        async def joined():
            try:
                recovery = await self.registry.subscribe(self.topic, reader, since)
            except BrokerUnavailable:
                self.readers.remove(reader)
                return
            if since is not None and not recovery.recovered:
                reader.heard = None
            if recovery.position is not None:
                reader.position = reader.position or recovery.position

        async def begin():
            reader.joining = asyncio.create_task(joined())
            await asyncio.sleep(0)

        self.run(begin())

    @precondition(lambda self: self.readers)
    @rule(at=st.integers(0, 5))
    def leave(self, at):
        reader = self.readers.pop(at % len(self.readers))

        async def left():
            reader.joining.cancel()
            await asyncio.wait([reader.joining])
            await self.registry.leave_all(reader)

        self.run(left())

    @rule()
    def wait(self):
        self.run(self.settle())

    @rule()
    def all_is_well(self):
        """Whoever has not been told of a gap has everything, once the network works again."""

        self.broker.is_away = False
        self.lend_readers_time()
        while self.broker.on_the_way:
            self.deliver(0, is_kept=False)
        self.run(self.settle())
        # Whatever was lost shows with the next message.
        self.publish()
        self.deliver(0, is_kept=False)
        self.lend_readers_time()
        for reader in self.readers:
            assert reader.heard in (None, self.published - 1)
            assert reader.joining.done()

    def lend_readers_time(self):
        async def read():
            for reader in self.readers:
                reader.may_read.set()
            for _ in range(20):
                await self.settle()

        self.run(read())

    @invariant()
    def nothing_was_raised(self):
        assert not getattr(self, "raised", None)

    @invariant()
    def nothing_is_kept_for_those_who_recover_when_nobody_does(self):
        for each in getattr(self, "registry", self).__dict__.get("_feeds", {}).values():
            assert each._held or not each._tail

    def teardown(self):
        if not hasattr(self, "loop"):
            return
        self.broker.is_away = False
        while self.readers:
            self.leave(0)
        self.run(self.settle())
        assert not self.registry._feeds
        self.loop.close()
        self.options.disable()


Feeds.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestFeeds = Feeds.TestCase


class Closing(Reader):
    """Can be told of a gap only by being closed."""

    gap = None
    is_closed = False

    def miss(self):
        self.is_closed = True
        return True


@pytest.fixture
def topic(monkeypatch):
    monkeypatch.setattr(feed, "_MOVE", 0.01)
    monkeypatch.setattr(Backoff, "next", lambda self: 0.01)
    rules = {"TOPICS": {"<path:name>": {"history": KEPT}}}
    with override_settings(CHANNEL_LAYERS={}, WS_SUPPORT=rules):
        yield f"feed {next(_names)}"


class Stage:
    """A registry with an unreliable broker."""

    def __init__(self, topic):
        self.topic = topic
        self.registry = TopicRegistry()
        self.broker = self.registry.broker = Unreliable(self.registry)
        self.count = 0

    async def publishes(self):
        message = {"type": "websocket.send", "text": str(self.count)}
        self.count += 1
        return (await self.broker.append(self.topic, message, Keeping(KEPT, 600))).position

    async def publishes_two_that_are_lost(self):
        first, _ = await self.publishes(), await self.publishes()
        self.broker.on_the_way.clear()
        return first

    async def delivers(self):
        for each in self.broker.on_the_way:
            self.registry.deliver_kept(*each)
        self.broker.on_the_way.clear()


class Slow(Reader):
    """Has half of its queue full."""

    def push(self, published):
        return super().push(published) or True


async def test_a_history_that_cannot_be_read_is_read_again_and_one_line_says_so(topic, caplog):
    stage, reader = Stage(topic), Slow(-1)
    await stage.registry.subscribe(topic, reader)
    stage.broker.unreadable = stage.registry._feeds[topic].position
    stage.broker.error = BrokerError("it is damaged")
    await stage.publishes()
    await stage.publishes()
    del stage.broker.on_the_way[0]
    await stage.delivers()
    await eventually(lambda: "could not be read" in caplog.text)
    assert f"The history of {topic!r} could not be read: it is damaged." in caplog.text
    stage.broker.error = None
    await eventually(lambda: reader.heard == 1)
    await stage.registry.leave_all(reader)


async def test_nobody_reads_a_history_again_of_which_nobody_wants_to_hear(topic):
    stage, reader = Stage(topic), Reader(None)
    stage.broker.is_away = True
    await stage.registry.subscribe(topic, reader)
    held = stage.registry._feeds[topic]
    joining = asyncio.create_task(held.until_known())
    await asyncio.sleep(0)
    await stage.registry.leave_all(reader)
    await joining
    held.catch_up()
    await eventually(lambda: held._task is None)
    assert held._retry is None or held._retry.cancelled()


async def test_of_what_came_before_the_first_reading_the_history_fills_the_holes(topic):
    stage, reader = Stage(topic), Reader(None)
    stage.broker.is_away = True
    await stage.registry.subscribe(topic, reader)
    for _ in range(3):
        await stage.publishes()
    del stage.broker.on_the_way[1]
    await stage.delivers()
    stage.broker.is_away = False
    await eventually(lambda: reader.heard == 2)
    await stage.registry.leave_all(reader)


async def test_when_somebody_has_read_where_a_history_ends_nobody_tries_again(topic, monkeypatch):
    monkeypatch.setattr(Backoff, "next", lambda self: 60)
    stage, one, other = Stage(topic), Reader(None), Reader(0)
    since = await stage.publishes()
    await stage.delivers()
    stage.broker.is_away = True
    await stage.registry.subscribe(topic, one)
    trying = stage.registry._feeds[topic]._retry
    stage.broker.is_away = False
    assert (await stage.registry.subscribe(topic, other, since)).recovered
    assert trying.cancelled()
    await stage.publishes()
    await stage.delivers()
    assert (one.heard, other.heard) == (1, 1)
    for each in (one, other):
        await stage.registry.leave_all(each)


async def test_who_knows_more_than_comes_here_is_told_that_it_does_not_come(topic):
    stage, first, second = Stage(topic), Reader(None), Reader(None)
    await stage.registry.subscribe(topic, first)
    stage.broker.unreadable = stage.registry._feeds[topic].position
    since = await stage.publishes_two_that_are_lost()
    stage.broker.error = BrokerUnavailable("it is away")
    with pytest.raises(BrokerUnavailable, match="messages do not come from it"):
        await stage.registry.subscribe(topic, second, since)
    assert second.topics == set()
    # Who has subscribed before stays subscribed.
    with pytest.raises(BrokerUnavailable):
        await stage.registry.subscribe(topic, first, since)
    assert first.topics == {topic}
    await stage.registry.leave_all(first)


async def test_one_who_gives_up_recovering_leaves_the_others_to_it(topic):
    stage, readers = Stage(topic), [Reader(0), Reader(0)]
    await stage.registry.subscribe(topic, opener := Reader(None))
    since = await stage.publishes()
    await stage.publishes()
    stage.broker.error = BrokerUnavailable("it is away")
    stage.broker.unreadable = stage.registry._feeds[topic].position
    first, second = (
        asyncio.create_task(stage.registry.subscribe(topic, each, since)) for each in readers
    )
    feed_of_it = stage.registry._feeds[topic]
    await eventually(lambda: len(feed_of_it._moving) == 2)
    first.cancel()
    await asyncio.wait([first])
    assert feed_of_it._held
    await stage.delivers()
    assert (await second).recovered
    assert readers[1].heard == 1
    assert not feed_of_it._held
    for each in (opener, *readers):
        await stage.registry.leave_all(each)


class Collecting(Reader):
    """Asks for more than once."""

    def __init__(self):
        super().__init__(None)
        self.texts = []

    def push(self, published):
        self.texts.append(published.message["text"])
        return False


async def test_who_asks_twice_at_once_gets_twice_what_was_missed_and_once_what_is_new(topic):
    stage, reader = Stage(topic), Collecting()
    since = await stage.publishes_two_that_are_lost()
    reader.may_read.clear()
    twice = [asyncio.create_task(stage.registry.subscribe(topic, reader, since)) for _ in range(2)]
    await eventually(lambda: stage.registry._feeds.get(topic) is not None)
    await stage.publishes()
    await stage.delivers()
    reader.may_read.set()
    assert all(each.recovered for each in await asyncio.gather(*twice))
    await stage.publishes()
    await stage.delivers()
    assert sorted(reader.texts) == ["1", "1", "2", "2", "3"]
    await stage.registry.leave_all(reader)


async def test_after_an_outage_histories_are_read_in_turn(monkeypatch):
    """All at once, they would fill the queue of the publisher."""
    with override_settings(CHANNEL_LAYERS={}, WS_SUPPORT={"TOPICS": {"<path:n>": {"history": 5}}}):
        registry = TopicRegistry()
        readers = [Reader(None) for _ in range(200)]
        for number, reader in enumerate(readers):
            await registry.subscribe(f"turn {number}", reader)
        reading, most, read = set(), [], []

        async def slow(topic, since, limit):
            reading.add(topic)
            most.append(len(reading))
            await asyncio.sleep(0.001)
            reading.discard(topic)
            read.append(topic)
            return Log([], since, is_complete=True, has_more=False)

        monkeypatch.setattr(registry.broker, "read", slow)
        registry.catch_up()
        await asyncio.sleep(0)
        registry.catch_up()
        await asyncio.sleep(0)
        await asyncio.gather(*(registry.leave_all(each) for each in readers[100:]))
        await eventually(lambda: registry._catching_up is None)
        assert set(read) >= {f"turn {number}" for number in range(100)}
        assert 1 < max(most) <= 2 * 64
        for reader in readers:
            await registry.leave_all(reader)


async def test_what_was_missed_is_read_in_parts_while_more_comes():
    with override_settings(CHANNEL_LAYERS={}, WS_SUPPORT={"TOPICS": {"<path:n>": {"history": 5}}}):
        registry, topic = TopicRegistry(), f"feed {next(_names)}"
        broker = registry.broker = Unreliable(registry)
        reader = Reader(None)
        await registry.subscribe(topic, reader)
        reader.heard = -1
        for number in range(3):
            message = {"type": "websocket.send", "text": str(number)}
            await broker.append(topic, message, Keeping(5, 600))
        registry.deliver_kept(*broker.on_the_way[1])
        await eventually(lambda: reader.heard == 2 and registry._feeds[topic]._task is None)
        await registry.leave_all(reader)


@pytest.mark.parametrize("kept", [0, KEPT])
@pytest.mark.parametrize("count", range(60, 70))
async def test_who_ends_while_it_subscribes_to_one_more_is_not_left_behind(topic, kept, count):
    with override_settings(WS_SUPPORT={"TOPICS": {"<path:name>": {"history": kept}}}):
        registry, reader = TopicRegistry(), Reader(None)
        for number in range(count):
            await registry.subscribe(f"{topic} {number}", reader)
        leaving = asyncio.create_task(registry.leave_all(reader))
        await asyncio.gather(registry.subscribe(topic, reader), leaving)
        assert (reader.topics, registry._topics) == (set(), {})


@pytest.mark.parametrize("again", [None, "with a position"])
async def test_a_subscription_that_fails_takes_none_away_that_was_asked_for_meanwhile(topic, again):
    stage, reader = Stage(topic), Reader(0)
    since = await stage.publishes_two_that_are_lost()
    reader.may_read.clear()
    failing = asyncio.create_task(stage.registry.subscribe(topic, reader, since))
    for _ in range(5):
        await asyncio.sleep(0)
    other = asyncio.create_task(stage.registry.subscribe(topic, reader, again and since))
    for _ in range(5):
        await asyncio.sleep(0)
    failing.cancel()
    await asyncio.wait([failing])
    reader.may_read.set()
    await other
    reader.heard = 1
    await stage.publishes()
    await stage.delivers()
    assert reader.heard == 2
    await stage.registry.leave_all(reader)
    assert stage.registry._topics == {}


@pytest.mark.parametrize("is_told", [True, False])
async def test_who_gives_up_recovering_and_has_missed_something_meanwhile_hears_of_it(
    topic, is_told
):
    stage, reader = Stage(topic), (Reader(None) if is_told else Closing(None))
    since = await stage.publishes_two_that_are_lost()
    await stage.registry.subscribe(topic, reader)
    reader.may_read.clear()
    again = asyncio.create_task(stage.registry.subscribe(topic, reader, since))
    await asyncio.sleep(0)
    last = await stage.publishes()
    await stage.delivers()
    again.cancel()
    await asyncio.wait([again])
    if is_told:
        assert (reader.heard, reader.position) == (None, last)
    else:
        assert reader.is_closed
    await stage.registry.leave_all(reader)


async def test_who_gives_up_recovering_and_has_missed_nothing_goes_on(topic):
    stage, reader = Stage(topic), Closing(None)
    since = await stage.publishes_two_that_are_lost()
    await stage.registry.subscribe(topic, reader)
    reader.may_read.clear()
    again = asyncio.create_task(stage.registry.subscribe(topic, reader, since))
    await asyncio.sleep(0)
    again.cancel()
    await asyncio.wait([again])
    assert not reader.is_closed
    await stage.publishes()
    await stage.delivers()
    assert reader.heard == 2
    await stage.registry.leave_all(reader)
