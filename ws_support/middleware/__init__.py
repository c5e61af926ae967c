"""ASGI middlewares, one in each file. `ws_support.asgi.WebSocketSupport` puts them in order."""
