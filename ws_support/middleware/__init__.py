"""ASGI middlewares, one a file. `ws_support.asgi.WebSocketSupport` puts them in order."""
