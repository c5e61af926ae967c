"""Presence: who is there under a topic, on every machine.

An *entry* is one tab or one task that is present under one topic. A *member* is a user with all
entries of that user. A *worker* is one event loop with entries: it has a lease in the broker's
storage, and entries of a worker whose lease is over count no more.
"""
