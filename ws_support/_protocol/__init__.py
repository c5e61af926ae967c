"""What RFC 6454, 6455 and 7692 say, as functions of bytes: no Django, no I/O."""
