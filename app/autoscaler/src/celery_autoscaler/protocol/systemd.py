"""What a service says to systemd."""

import os
import socket


def notify(*assignments: str) -> bool:
    """Send ``NAME=value`` assignments to the service manager, in one message.

    The protocol is that of sd_notify(3): one datagram to the socket named by ``NOTIFY_SOCKET``.

    Returns:
        Whether there is a service manager to notify.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as unix:
        unix.connect(address)
        unix.sendall("\n".join(assignments).encode())
    return True
