from __future__ import annotations

from django.urls import path

from rooms import consumers

websocket_urlpatterns = [
    path("rooms/<slug:slug>/", consumers.RoomConsumer.as_asgi(page_size=3)),
    path("boards/<slug:slug>/", consumers.BoardConsumer.as_asgi()),
    path("countdown/<int:start>/", consumers.CountdownConsumer.as_asgi(interval=0.01)),
    path("advent/<int:start>/", consumers.CountdownConsumer.as_asgi(interval=24 * 60 * 60)),
]
