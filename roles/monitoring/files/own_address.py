"""Require that an address is one of this host: exporters that cannot listen there do not start again."""

import socket
import sys

ADDRESS = sys.argv[1]

try:
    kind, *_, place = socket.getaddrinfo(ADDRESS, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        probe.bind(place)
except OSError as error:
    sys.exit(f"monitoring_exporters_address: {ADDRESS} is no address of this host ({error.strerror})")
