"""The `netcapture` command."""
