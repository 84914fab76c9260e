"""Workers as systemd services, ``celery-worker@<group>-<n>.service``, over D-Bus.

Those of a project with a name are ``celery-<project>-worker@<group>-<n>.service``.

The supervisor needs no privilege but a polkit rule for these units. The workers are systemd's: they go on
when the supervisor ends, and the next one finds them.
"""

import subprocess
from typing import Any

from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from celery_autoscaler.protocol.project import unit_prefix
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.launchers import LAST_WORDS, LaunchError, State, StopSignal

MANAGER = DBusAddress(
    "/org/freedesktop/systemd1",
    bus_name="org.freedesktop.systemd1",
    interface="org.freedesktop.systemd1.Manager",
)
SUFFIX = ".service"
# Seconds for an answer of systemd's.
ANSWER_SECONDS = 5.0


def unit_of(worker: str) -> str:
    """Return the unit of a worker of this project."""
    return f"{unit_prefix()}-worker@{worker}{SUFFIX}"


class SystemdLauncher:
    """Starts and stops units that others have defined."""

    outlived = True
    gives_settings = False

    def __init__(self) -> None:
        self._connection: DBusConnection | None = None

    def start(self, group: Group, worker: str) -> None:  # noqa: ARG002  the unit knows its group
        """Start a worker's unit."""
        self._call("StartUnit", "ss", unit_of(worker), "replace")

    def workers(self) -> dict[str, State]:
        """Return the units that are not at rest."""
        [units] = self._call("ListUnitsByPatterns", "asas", [], [unit_of("*")])
        states = {}
        for name, _, _, active, sub, _, _, _, job, _ in units:
            worker = name.partition("@")[2].removesuffix(SUFFIX)
            if active == "failed" or sub == "auto-restart":
                states[worker] = State.FAILED
            elif active == "deactivating":
                states[worker] = State.STOPPING
            # Its start may wait for that of another unit.
            elif active != "inactive" or job == "start":
                states[worker] = State.RUNNING
        return states

    def send_signal(self, worker: str, how: StopSignal) -> None:
        """Stop the unit, whose own stop lets running tasks finish; signal it if that lasts too long."""
        unit = unit_of(worker)
        if how is StopSignal.TERM:
            self._call("StopUnit", "ss", unit, "replace")
        else:
            whom, number = ("main", 3) if how is StopSignal.QUIT else ("all", 9)
            self._call("KillUnit", "ssi", unit, whom, number)

    def forget_failed(self, worker: str) -> None:
        """Keep systemd from starting a failed worker again by itself."""
        self._call("StopUnit", "ss", unit_of(worker), "replace")
        try:
            self._call("ResetFailedUnit", "s", unit_of(worker))
        except LaunchError:
            # It was waiting to be started again, and is gone now.
            return

    def last_words(self, worker: str) -> list[str]:
        """Return the last lines that a unit has in the journal."""
        command = ["journalctl", "--unit", unit_of(worker), "--lines", str(2 * LAST_WORDS), "--output", "cat"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return []
        words = [line for line in done.stdout.splitlines() if line.strip() and unit_of(worker) not in line]
        return words[-LAST_WORDS:]

    def where_to_look(self, worker: str) -> str:
        """Return the journal of the unit."""
        return f"journalctl --unit {unit_of(worker)}"

    def close(self) -> None:
        """Leave the bus."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _call(self, method: str, signature: str, *arguments: Any) -> Any:
        """Call systemd's manager.

        Raises:
            LaunchError: It refuses, or does not answer.
        """
        try:
            if self._connection is None:
                self._connection = open_dbus_connection(bus="SYSTEM")
            message = new_method_call(MANAGER, method, signature, arguments)
            reply = self._connection.send_and_get_reply(message, timeout=ANSWER_SECONDS)
        except (OSError, ValueError, KeyError) as error:
            self.close()
            raise LaunchError(f"systemd does not answer {method}: {error or type(error).__name__}") from error
        if reply.header.message_type is MessageType.error:
            name = reply.header.fields.get(HeaderFields.error_name, "")
            raise LaunchError(
                f"systemd refuses {method} {arguments[0]}: {' '.join(map(str, reply.body)) or name}"
            )
        return reply.body
