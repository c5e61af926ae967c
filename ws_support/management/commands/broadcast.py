from __future__ import annotations

import asyncio
import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ws_support._topics.brokers import broker_class, is_between_processes
from ws_support._topics.messages import JSONText
from ws_support._topics.rules import rules_of
from ws_support.broadcast import BroadcastError, count_takers


class Command(BaseCommand):
    help = "Sends a message to all who have subscribed to a topic, in every process."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("topic")
        parser.add_argument("message", help="sent as text")
        parser.add_argument(
            "--json", action="store_true", help="refuse a message that is not valid JSON"
        )
        parser.add_argument(
            "--wait",
            type=float,
            default=1,
            metavar="SECONDS",
            help="how long to count the processes that have taken it, default: 1",
        )

    def handle(self, *args: Any, **given: Any) -> None:
        if not is_between_processes():
            raise CommandError(
                "Nobody outside this process would hear it: CHANNEL_LAYERS has no layer between"
                " processes. With Redis, its BACKEND is channels_redis.core.RedisChannelLayer."
            )
        message = given["message"]
        if given["json"]:
            try:
                json.loads(message, parse_constant=_refuse)
            except (ValueError, RecursionError) as error:
                raise CommandError(f"The message is not valid JSON: {error}.") from None
            message = JSONText(message)
        try:
            takers = asyncio.run(count_takers(given["topic"], message, given["wait"]))
        except (BroadcastError, ValueError) as error:
            raise CommandError(str(error)) from error
        if takers:
            processes = "1 process" if takers == 1 else f"{takers} processes"
            self.stdout.write(f"{processes} took it.")
        elif getattr(rules_of(given["topic"]), "history", 0) and broker_class().has_history:
            self.stdout.write(
                f"It is kept in the history. Nobody has subscribed to {given['topic']!r:.100} now."
            )
        else:
            self.stdout.write(
                f"No process took it within {given['wait']:g} s: nobody has subscribed to"
                f" {given['topic']!r:.100}."
            )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is known to Python alone")
