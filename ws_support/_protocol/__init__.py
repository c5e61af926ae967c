"""Origins, handshakes and frames by RFC 6454, 6455 and 7692: no Django, no I/O."""
