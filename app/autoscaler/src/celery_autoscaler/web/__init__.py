"""What a supervisor offers over HTTP: its page, its metrics, its health."""
