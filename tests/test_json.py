"""Values that are sent as JSON."""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from django.core.serializers.json import DjangoJSONEncoder
from django.utils.functional import lazystr

from tests.peers import connected
from ws_support.broadcast import broadcast_json
from ws_support.consumers import AsyncJsonWebsocketConsumer
from ws_support.websocket import websocket_view

VALUES = {
    "decimal": Decimal("1.08"),
    "datetime": datetime(2026, 11, 27, 8, 30, tzinfo=timezone.utc),
    "date": date(2026, 11, 27),
    "time": time(8, 30),
    "timedelta": timedelta(seconds=90),
    "uuid": UUID(int=7),
    "lazy": lazystr("Monday"),
}
AS_TEXT = {
    "decimal": "1.08",
    "datetime": "2026-11-27T08:30:00Z",
    "date": "2026-11-27",
    "time": "08:30:00",
    "timedelta": "P0DT00H01M30S",
    "uuid": "00000000-0000-0000-0000-000000000007",
    "lazy": "Monday",
}


class SetEncoder(DjangoJSONEncoder):
    def default(self, value):
        return sorted(value) if isinstance(value, set) else super().default(value)


class Consumer(AsyncJsonWebsocketConsumer):
    channel_layer_alias = None
    subscriptions = ["json"]

    async def connect(self):
        Consumer.send_one = self.send_json
        await self.accept()


@websocket_view
async def view(websocket):
    Consumer.send_one = websocket.send_json
    await websocket.subscribe("json")
    await websocket.accept()
    await websocket.wait_closed()


async def broadcast_one(value, **options):
    await broadcast_json("json", value, **options)


@pytest.fixture(params=["broadcast_json", "consumer", "websocket"])
async def sending(request):
    application = view if request.param == "websocket" else Consumer.as_asgi()
    async with connected(application) as peer:
        yield peer, broadcast_one if request.param == "broadcast_json" else Consumer.send_one


async def test_what_models_hold_is_sent(sending):
    peer, send = sending
    await send(VALUES)
    assert json.loads(*await peer.texts(1)) == AS_TEXT


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
async def test_what_no_browser_can_read_is_refused(sending, value):
    peer, send = sending
    with pytest.raises(ValueError, match="not JSON compliant"):
        await send(value)
    assert await peer.receive_nothing(0)


async def test_an_encoder_may_know_more_and_sends_no_nan_either(sending):
    peer, send = sending
    with pytest.raises(TypeError, match="not JSON serializable"):
        await send({1})
    await send({2, 1}, encoder=SetEncoder)
    assert await peer.texts(1) == ["[1, 2]"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        await send(float("nan"), encoder=SetEncoder)
