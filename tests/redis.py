"""A real Redis on a port of its own, which goes away and comes back."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.harness import BOUND, free_port, to_its_end, until

CORE = "channels_redis.core.RedisChannelLayer"
PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
BROKER = "redis"
WAYS = {"core": CORE, "pubsub": PUBSUB, "broker": BROKER}
"""What carries broadcasts: a channel layer, or our own broker beside one."""


class Redis:
    """Keeps nothing on the disk: who starts it again finds it empty."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def layers(self, backend: str = CORE, **config: Any) -> dict[str, Any]:
        """For `CHANNEL_LAYERS`."""
        config = {"hosts": [f"redis://127.0.0.1:{self.port}"], **config}
        return {"default": {"BACKEND": backend, "CONFIG": config}}

    def settings(self, way: str = CORE, *, options: Any = (), **config: Any) -> dict[str, Any]:
        """What carries broadcasts, as Django's settings, with `options` for `WS_SUPPORT`."""
        broker = {} if way == BROKER else {"BROKER": "channel_layer"}
        return {
            "CHANNEL_LAYERS": self.layers(CORE if way == BROKER else way, **config),
            "WS_SUPPORT": {**broker, **dict(options)},
        }

    def start(self, *options: str) -> None:
        address = ("--port", str(self.port), "--bind", "127.0.0.1")
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *(options or ("--save", "")), *address],
                cwd=self._directory,
                stdout=log,
            )
        for _ in until("Redis"):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                continue
            return

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)  # It may be paused.
            self._process.wait(BOUND)
            self._process = None

    def pause(self) -> None:
        """It stays connected and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def ask(self, *words: str) -> str:
        """One command, and what it answers, as Redis writes it."""
        command = "".join([f"*{len(words)}\r\n", *(f"${len(w)}\r\n{w}\r\n" for w in words)])
        with socket.create_connection(("127.0.0.1", self.port), BOUND) as connection:
            connection.sendall(command.encode())
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def names(self) -> list[str]:
        """Of groups and channels."""
        answer = self.ask("KEYS", "*") + self.ask("PUBSUB", "CHANNELS", "*")
        return [line for line in answer.split("\r\n") if line and line[0] not in "*$"]

    def channel_of(self, group: str) -> str:
        """The one channel that is in it."""
        answer = self.ask("ZRANGE", f"asgi:group:{group}", "0", "-1")
        return answer.split("\r\n")[2]


class Cluster:
    """A Redis Cluster of three masters, and as many replicas of the first as are asked for."""

    def __init__(self, program: str, directory: Path, replicas: int = 0) -> None:
        self.masters = [self._node(program, directory / f"master-{at}") for at in range(3)]
        self.replicas = [self._node(program, directory / f"replica-{at}") for at in range(replicas)]

        self._buses = {node: free_port() for node in self.nodes}

    def _node(self, program: str, directory: Path) -> Redis:
        directory.mkdir()
        return Redis(program, directory)

    @property
    def nodes(self) -> list[Redis]:
        return [*self.masters, *self.replicas]

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.masters[0].port}"

    def start(self) -> None:
        """Start the nodes and make them a cluster; returns when all of them agree on it."""
        for node in self.nodes:
            self._start(node)
        first, *others = self.nodes
        bounds = [round(at * SLOTS / 3) for at in range(4)]
        for master, start, end in zip(self.masters, bounds, bounds[1:], strict=False):
            expect_ok(master, "ADDSLOTSRANGE", str(start), str(end - 1))
        for at, node in enumerate(others, 2):
            expect_ok(node, "SET-CONFIG-EPOCH", str(at))
            expect_ok(node, "MEET", "127.0.0.1", str(first.port), str(self._buses[first]))
        for _ in until("the cluster knows all its nodes"):
            if all(f"cluster_known_nodes:{len(self.nodes)}" in info(each) for each in self.nodes):
                break
        for replica in self.replicas:
            expect_ok(replica, "REPLICATE", self.id_of(first))
        self.until_whole()
        for _ in until("the replicas follow"):
            if all("master_link_status:up" in each.ask("INFO") for each in self.replicas):
                break

    def start_again(self) -> None:
        """Start the nodes that were stopped, which remember the cluster."""
        for node in self.nodes:
            if not node.is_running:
                self._start(node)
        self.until_whole()

    def _start(self, node: Redis) -> None:
        node.start(*CLUSTERED, "--cluster-port", str(self._buses[node]))

    def until_whole(self) -> None:
        """Return when each node that runs says that each slot is served."""
        for _ in until("the cluster is whole"):
            running = [each for each in self.nodes if each.is_running]
            if all("cluster_state:ok" in info(each) for each in running) and agree(running):
                return

    def stop(self) -> None:
        for node in self.nodes:
            node.stop(signal.SIGKILL)

    def id_of(self, node: Redis) -> str:
        return node.ask("CLUSTER", "MYID").split("\r\n")[1]

    def master_of(self, key: str) -> Redis:
        """The master that has the slot of a key."""
        slot = slot_of(self.masters[0], key)
        return next(node for node in self.masters for own in self.slots_of(node) if slot in own)

    def slots_of(self, node: Redis) -> list[range]:
        own = next(line for line in node.ask("CLUSTER", "NODES").split("\n") if "myself" in line)
        spans = [each.split("-") for each in own.split()[8:] if "[" not in each]
        return [range(int(each[0]), int(each[-1]) + 1) for each in spans]

    def move(self, key: str, source: Redis, target: Redis) -> None:
        """Move the slot of a key, and what is in it, from one master to another."""
        slot = str(slot_of(source, key))
        expect_ok(target, "SETSLOT", slot, "IMPORTING", self.id_of(source))
        expect_ok(source, "SETSLOT", slot, "MIGRATING", self.id_of(target))
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, "100").split("\r\n")[2:-1:2]
        if keys:
            answer = source.ask(
                "MIGRATE", "127.0.0.1", str(target.port), "", "0", "5000", "KEYS", *keys
            )
            assert answer == "+OK\r\n", answer
        for node in (target, source, *self.masters):
            expect_ok(node, "SETSLOT", slot, "NODE", self.id_of(target))


SLOTS = 16384
CLUSTERED = (
    "--save", "", "--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
    "--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0",
    "--cluster-replica-validity-factor", "0",
)  # fmt: skip


def info(node: Redis) -> str:
    return node.ask("CLUSTER", "INFO")


def agree(nodes: list[Redis]) -> bool:
    """Whether all of them name the same masters for all slots."""
    return len({tuple(sorted(masters_by(each))) for each in nodes}) == 1


def masters_by(node: Redis) -> Iterator[str]:
    for line in node.ask("CLUSTER", "NODES").split("\n"):
        words = line.split()
        if len(words) > 8 and "master" in words[2]:
            yield f"{words[0]} {words[8:]}"


def slot_of(node: Redis, key: str) -> int:
    return int(node.ask("CLUSTER", "KEYSLOT", key)[1:])


def expect_ok(node: Redis, *words: str) -> None:
    answer = node.ask("CLUSTER", *words)
    assert answer == "+OK\r\n", (words, answer)


def broadcast_from_the_shell(
    settings: dict[str, Any], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """`manage.py broadcast`, to its end."""
    return to_its_end("broadcast", *arguments, settings=settings)
