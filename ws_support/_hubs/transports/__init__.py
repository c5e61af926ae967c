"""The transports of hubs: what carries the bytes of a connection, in terms of ASGI."""
