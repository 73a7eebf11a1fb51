"""The engine: its own process, in the host's network, where captured connections end."""
