"""Presence against a model, in a time that passes at once."""

from __future__ import annotations

import asyncio
import selectors
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count

from django.test import override_settings
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.harness import examples
from ws_support._topics.brokers import local_presence
from ws_support._topics.brokers.base import TIMEOUT, BrokerUnavailable
from ws_support._topics.brokers.local_presence import LocalPresence
from ws_support._topics.outages import OutageDetector, Outages
from ws_support._topics.presence.entries import Entry, difference_topic, members_of
from ws_support._topics.presence.storage import PresenceStorage
from ws_support._topics.presence.tracker import Tracker
from ws_support._topics.registry import TopicRegistry

TOPIC = "room/7"
USERS = ["ann", "bob", "cid"]


class Selector(selectors.SelectSelector):
    """Waits for nothing: the clock is set forward instead."""

    now = 0.0

    def select(self, timeout=None):
        assert timeout is not None, "nothing is going to happen"
        self.now += max(timeout, 0)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.selector = Selector()
        super().__init__(self.selector)

    def time(self):
        return self.selector.now


class Storage(PresenceStorage):
    """That of the process, for one worker, which may be cut off from it or stand still."""

    def __init__(self, inner, outages):
        self._inner = inner
        self.outages = outages
        self.is_away = False
        self.may_run = asyncio.Event()
        self.may_run.set()

    async def _ready(self):
        since = asyncio.get_running_loop().time()
        await self.may_run.wait()
        await asyncio.sleep(0.001)
        if self.is_away or asyncio.get_running_loop().time() - since > TIMEOUT:
            raise BrokerUnavailable("away")

    async def lease(self, worker, successor):
        await self._ready()
        return await self._inner.lease(worker, successor)

    async def living(self, workers):
        await self._ready()
        return await self._inner.living(workers)

    async def change(self, topic, joined, left):
        await self._ready()
        await self._inner.change(topic, joined, left)

    async def remove(self, topic, worker):
        await self._ready()
        await self._inner.remove(topic, worker)

    async def keep(self, topic):
        await self._ready()
        return await self._inner.keep(topic)

    async def read(self, topic):
        await self._ready()
        stored = await self._inner.read(topic)
        await asyncio.sleep(0.001)  # Differences may be heard meanwhile.
        return stored


@dataclass
class Held:
    number: int
    name: str
    since: float


@dataclass
class Process:
    """A worker, who it has let in, and what it was told."""

    storage: Storage
    tracker: Tracker
    listener: OutageDetector
    steady_since: float
    entries: list[Held] = field(default_factory=list)
    people: dict = field(default_factory=dict)
    reader: object = None
    is_running: bool = True


class States(RuleBasedStateMachine):
    """Some processes with the same storage: who is let in is present, and nobody else."""

    @initialize()
    def start(self):
        LocalPresence.forget()
        self.loop = Loop()
        self.clock = count(1)
        self.loop.run_until_complete(self._start())

    async def _start(self):
        local_presence.monotonic = self.loop.time
        self.tasks = []
        self.replica = {}
        self.processes = [await self._process() for _ in range(3)]

    async def _process(self):
        outages = Outages("The storage of a test")
        storage = Storage(TopicRegistry.of_this_loop().broker.presence(TOPIC), outages)
        process = Process(storage, Tracker(storage), outages.detector(), self.loop.time())
        process.reader = process.tracker.watch(TOPIC)
        self.tasks.append(asyncio.create_task(self._follow(process)))
        return process

    async def _follow(self, process):
        while True:
            change = await process.reader.next()
            for each in (*change.joined, *change.changed):
                process.people[each.key] = each.entries
            for each in change.left:
                self._check_left(process, each.key)
                del process.people[each.key]

    def _check_left(self, told, key):
        """Nobody is told that somebody has left who is there, in a process that has run for long
        enough: one that stood still is told of by others, but not by itself."""
        now = self.loop.time()
        for process in self.processes:
            is_steady = process is told or (process.is_running and now - process.steady_since > 6)
            for each in process.entries:
                assert not (is_steady and each.name == key and now - each.since > 1), key

    # What happens

    workers = st.integers(0, 2)

    @rule(worker=workers, name=st.sampled_from(USERS))
    def join(self, worker, name):
        self._do(self._join(self.processes[worker], name))

    async def _join(self, process, name):
        if not process.is_running:
            return
        held = Held(process.tracker.worker.new_number(), name, self.loop.time())
        process.entries.append(held)
        entry = Entry(name, name, name, next(self.clock), held.number)
        putting = process.tracker.worker.put(TOPIC, held.number, entry.write())
        self.tasks.append(asyncio.create_task(putting))

    @rule(worker=workers, which=st.integers(0, 5))
    def leave(self, worker, which):
        process = self.processes[worker]
        if process.is_running and which < len(process.entries):
            held = process.entries.pop(which)
            self._do(self._leave(process, held))

    async def _leave(self, process, held):
        process.tracker.worker.leave(TOPIC, held.number)

    @rule(worker=workers, other=workers, which=st.integers(0, 5))
    def reload(self, worker, other, which):
        process = self.processes[worker]
        if process.is_running and which < len(process.entries):
            held = process.entries.pop(which)
            self._do(self._leave(process, held))
            self._do(self._join(self.processes[other], held.name))

    @rule(worker=workers)
    def die(self, worker):
        self._do(self._die(worker))

    async def _die(self, worker):
        process = self.processes[worker]
        process.storage.may_run = asyncio.Event()  # For ever.
        process.entries.clear()
        process.is_running = False
        self.processes[worker] = await self._process()

    @rule(worker=workers)
    def stand_still(self, worker):
        process = self.processes[worker]
        process.storage.may_run.clear()
        process.is_running = False

    @rule(worker=workers)
    def go_on(self, worker):
        self._go_on(self.processes[worker])

    def _go_on(self, process):
        if not process.is_running:
            process.is_running = True
            process.steady_since = self.loop.time()
            process.storage.may_run.set()

    @rule()
    def lose_everything(self):
        """As when Redis is restarted. An outage is not noticed."""
        LocalPresence._topics.clear()
        LocalPresence._leases.clear()

    @rule()
    def copy(self):
        """Have a replica that gets nothing more."""
        self.replica = deepcopy(LocalPresence._topics)

    @rule(
        seconds=st.sampled_from([0.5, 3, 8, 12, 30]),
        after=st.sampled_from(["all is there", "nothing is there", "the replica is there"]),
    )
    def outage(self, seconds, after):
        """As the listener of a broker notices it: its connection ends."""
        for each in self.processes:
            each.storage.is_away = True
            each.listener.lose(BrokerUnavailable("away"))
        self._do(asyncio.sleep(seconds))
        if after == "nothing is there":
            self.lose_everything()
        elif after == "the replica is there":
            LocalPresence._topics = deepcopy(self.replica)
        for each in self.processes:
            each.storage.is_away = False
            each.listener.find()

    @rule()
    def miss(self):
        self._do(self._miss())

    async def _miss(self):
        TopicRegistry.of_this_loop().miss(difference_topic(TOPIC), 1, "Lost in a test.")

    @rule(seconds=st.sampled_from([0.01, 0.06, 1, 2.1, 5, 20, 70]))
    def wait(self, seconds):
        self._do(asyncio.sleep(seconds))

    # What holds

    @rule()
    def settle(self):
        for each in self.processes:
            self._go_on(each)
        self._do(asyncio.sleep(25))
        expected = {}
        for each in self.processes:
            for held in each.entries:
                expected[held.name] = expected.get(held.name, 0) + 1
        for each in self.processes:
            assert {key: len(value) for key, value in each.people.items()} == expected
            entries = self._do(each.tracker.read(TOPIC))
            found = members_of(entries.values())
            assert {member.key: len(member.entries) for member in found} == expected

    @precondition(lambda self: hasattr(self, "tasks"))
    @invariant()
    def nothing_has_failed(self):
        for task in self.tasks:
            if task.done():
                task.result()

    def _do(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def teardown(self):
        if hasattr(self, "loop"):
            try:
                self.settle()
            finally:
                tasks = asyncio.all_tasks(self.loop)
                for task in tasks:
                    task.cancel()
                self._do(asyncio.gather(*tasks, return_exceptions=True))
                self.loop.close()


def test_who_is_let_in_is_present_whatever_happens(monkeypatch):
    monkeypatch.setattr(local_presence, "monotonic", None)
    monkeypatch.setattr(LocalPresence, "_topics", {})
    with override_settings(CHANNEL_LAYERS={}):
        run_state_machine_as_test(
            States, settings=settings(max_examples=examples(90), stateful_step_count=25)
        )
