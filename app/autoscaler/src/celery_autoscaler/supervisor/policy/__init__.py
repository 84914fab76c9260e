"""What is decided from what was seen. Pure: no I/O, no clock; simulator and supervisor run it unchanged."""
