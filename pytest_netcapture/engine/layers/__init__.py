"""Sans-IO protocol layers: bytes in, effects out, no sockets, no clocks."""
