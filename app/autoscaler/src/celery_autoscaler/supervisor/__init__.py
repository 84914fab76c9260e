"""The supervisor of a host: what it sees, decides and does once a second."""
