"""Brokers: they carry messages between processes."""
