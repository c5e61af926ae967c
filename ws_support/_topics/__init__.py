"""Topics, their subscribers in this process, and the brokers between processes."""
