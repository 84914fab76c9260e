"""The faults, as they are done to a stage."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
from celery_autoscaler.operations.overrides import Sender, change
from celery_autoscaler.operations.rollout import RolloutError, replace_workers
from celery_autoscaler.protocol.broker import Broker, Client
from celery_autoscaler.protocol.lease import leased_workers
from celery_autoscaler.protocol.slots import tell
from docker.errors import APIError
from redis.exceptions import RedisError
from support.processes.services import RedisServer, ServiceError, wait_for

from histories.events import FaultKind
from histories.script import Step
from histories.servers import FULL, NOBODY, client_of
from histories.stage import KEYS, Stage

GROUP = "general"
# Seconds by which clocks jump: more than a lease, and not so much that an ETA is far away for who is behind.
JUMPS = (8.0, -8.0, 5.0)
SEPARATOR = "\x06\x16"
STEPS = (0, 3, 6, 9)
# Seconds that a worker may take to consume, on a busy machine.
READY_WITHIN = 45.0


class Faults:
    """What can be done."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.servers = stage.servers
        self.done: dict[str, Callable[[Step], None]] = {
            FaultKind.KILL_WORKER: self.kill_worker,
            FaultKind.KILL_CHILD: self.kill_child,
            FaultKind.FREEZE: self.freeze,
            FaultKind.CUT_OFF: self.cut_off,
            FaultKind.DROP: self.drop,
            FaultKind.TERM: self.terminate,
            FaultKind.QUIT: self.quit,
            FaultKind.HUP: self.hang_up,
            FaultKind.DRAIN: self.drain,
            FaultKind.STRETCH: self.stretch,
            FaultKind.CLOCK: self.change_clock,
            FaultKind.DEPLOY: self.deploy,
            FaultKind.BROKER_KILLED: lambda step: self.kill_server(step, lambda: self.servers.primary),
            FaultKind.BROKER_PAUSED: lambda step: self.pause(step, lambda: self.servers.primary),
            FaultKind.BROKER_FULL: lambda step: self.fill(step, lambda: self.servers.primary),
            FaultKind.BROKER_READ_ONLY: self.read_only,
            FaultKind.BROKER_SILENT: self.silence,
            FaultKind.FAILOVER: self.fail_over,
            FaultKind.RESULTS_KILLED: lambda step: self.kill_server(step, lambda: self.servers.results),
            FaultKind.RESULTS_PAUSED: lambda step: self.pause(step, lambda: self.servers.results),
            FaultKind.RESULTS_FULL: lambda step: self.fill(step, lambda: self.servers.results),
            FaultKind.KILL_SUPERVISOR: self.kill_supervisor,
            FaultKind.FREEZE_SUPERVISOR: self.freeze_supervisor,
            FaultKind.TERM_SUPERVISOR: self.terminate_supervisor,
            FaultKind.RELOAD: self.reload,
            FaultKind.SCALE: self.scale,
        }

    def do(self, step: Step) -> None:
        """Do one; those who are gone meanwhile, or a server that is away, leave it undone."""
        with suppress(ProcessLookupError, psutil.Error, RedisError, ServiceError, IndexError, APIError):
            self.done[step.action](step)

    # --- Workers ---------------------------------------------------------------------------------------

    def main(self, step: Step) -> int:
        """Return the worker that a step means.

        Raises:
            IndexError: There is none.
        """
        mains = self.stage.mains()
        return mains[step.target % len(mains)] if mains else mains[0]

    def kill_worker(self, step: Step) -> None:
        """Kill a worker: its main process alone, or all its processes."""
        main = self.main(step)
        with self.stage.fault(FaultKind.KILL_WORKER, main):
            if step.number % 2:
                os.kill(main, signal.SIGKILL)
            else:
                os.killpg(main, signal.SIGKILL)

    def kill_child(self, step: Step) -> None:
        """Kill a process that runs tasks."""
        main = self.main(step)
        children = psutil.Process(main).children()
        child = children[step.number % len(children)] if children else children[0]
        with self.stage.fault(FaultKind.KILL_CHILD, child.pid, subject=str(main)):
            child.kill()

    def freeze(self, step: Step) -> None:
        """Stop all processes of a worker for a while."""
        main = self.main(step)
        owner = self.stage.owner(main)
        with self.stage.fault(FaultKind.FREEZE, main):
            if owner:
                owner.frozen = True
            os.killpg(main, signal.SIGSTOP)
            time.sleep(step.seconds)
            with suppress(ProcessLookupError):
                os.killpg(main, signal.SIGCONT)
            if owner:
                owner.frozen = False

    def cut_off(self, step: Step) -> None:
        """Have the connections of a worker, or of a supervisor and all its workers, carry nothing."""
        owners = [*self.stage.workers, *self.stage.supervisors]
        owner = owners[step.target % len(owners)]
        with self.stage.fault(FaultKind.CUT_OFF, owner.pid, *owner.mains()) as concerned:
            owner.frozen = True
            self.servers.proxy.silence(True, owner.gate)
            time.sleep(step.seconds)
            concerned.extend(owner.mains())
            self.servers.proxy.silence(False, owner.gate)
            owner.frozen = False

    def drop(self, step: Step) -> None:
        """Close the connections of one process, or of all, or have the server do it."""
        owners = [*self.stage.workers, *self.stage.supervisors]
        with self.stage.fault(FaultKind.DROP):
            if step.number == 1:
                self.servers.proxy.drop(owners[step.target % len(owners)].gate)
            elif step.number == 2:
                self.servers.proxy.drop()
            else:
                with client_of(self.servers.primary.port) as client:
                    client.client_kill_filter(_type="normal", skipme=True)
                    client.client_kill_filter(_type="pubsub", skipme=True)

    def terminate(self, step: Step) -> None:
        """Ask a worker to end."""
        self.ask(self.main(step), FaultKind.TERM, signal.SIGTERM)

    def quit(self, step: Step) -> None:
        """Ask a worker to end at once."""
        self.ask(self.main(step), FaultKind.QUIT, signal.SIGQUIT)

    def ask(self, main: int, kind: FaultKind, number: signal.Signals) -> None:
        """Send a signal that ends a worker, and wait until it has."""
        process = psutil.Process(main)
        owner = self.stage.owner(main)
        with self.stage.fault(kind, main):
            if owner:
                owner.asked = owner.asked or time.time()
            process.send_signal(number)
            with suppress(psutil.TimeoutExpired):
                process.wait(60)

    def hang_up(self, step: Step) -> None:
        """Have a worker restart itself."""
        # Before a worker has begun, the signal ends it, as it does any process.
        if ready := [one for one in self.stage.workers if one.ready and one.asked is None]:
            worker = ready[step.target % len(ready)]
            with self.stage.fault(FaultKind.HUP, worker.pid):
                worker.restarts += 1
                worker.signal(signal.SIGHUP)

    def change_clock(self, step: Step) -> None:
        """Have the wall clock of a worker, or of a supervisor and all its workers, jump, and jump back."""
        owners = [*self.stage.workers, *self.stage.supervisors]
        owner = owners[step.target % len(owners)]
        with self.stage.fault(FaultKind.CLOCK, owner.pid):
            owner.clock.jump(JUMPS[step.number % len(JUMPS)])
            time.sleep(step.seconds)
            owner.clock.jump(0.0)

    def drain(self, step: Step) -> None:
        """Have a worker take nothing for a while."""
        with client_of(self.servers.primary.port, decode_responses=True) as client:
            names = sorted(client.zrange(KEYS.workers, 0, -1))
            name = names[step.target % len(names)].rpartition(":")[0] if names else names[0]
            with self.stage.fault(FaultKind.DRAIN, subject=name):
                client.sadd(KEYS.drain, name)
                time.sleep(step.seconds)
        self.undo(lambda client: client.srem(KEYS.drain, name))

    def stretch(self, step: Step) -> None:
        """Tell a worker to have another number of slots, as its supervisor does."""
        broker = self.broker()
        names = sorted(leased_workers(broker.client, broker.keys))
        name = names[step.target % len(names)] if names else names[0]
        with self.stage.fault(FaultKind.STRETCH, subject=name):
            tell(broker, name, step.number)

    def undo(self, act: Callable[[Client], object]) -> None:
        """Do something on the broker that must not be left out; wait until it answers."""

        def done() -> bool:
            with suppress(RedisError, OSError), client_of(self.servers.primary.port) as client:
                act(client)
                return True
            return False

        wait_for(done, "the broker stays away")

    def deploy(self, step: Step) -> None:
        """Replace workers by others that consume before the old ones end."""
        if self.stage.supervisors and (step.number % 2 or not self.stage.workers):
            broker = self.broker()
            names = {name.rpartition(":")[0] for name in leased_workers(broker.client, broker.keys)}
            hosts = tuple(f"@host{number}" for number in range(len(self.stage.supervisors)))
            wanted = [name for name in names if name.endswith(hosts)]
            with self.stage.fault(FaultKind.DEPLOY, subject=" ".join(wanted)), suppress(RolloutError):
                replace_workers(broker, wanted, lambda _: None, stalled=20)
            return
        number = step.target % len(self.stage.workers)
        old = self.stage.workers[number]
        with self.stage.fault(FaultKind.DEPLOY, subject=old.name):
            new = self.stage.new_worker(old.name.rpartition(".")[0].replace("@", "x@"))
            with self.stage.lock:
                # From now on it is watched as any other.
                self.stage.workers.append(new)
            with suppress(ServiceError):
                wait_for(lambda: new.ready or new.status is not None, "not ready", READY_WITHIN)
            with self.stage.lock:
                if old in self.stage.workers and old.status is None:
                    self.stage.workers.remove(old)
                    self.stage.leaving.append(old)
            old.asked = old.asked or time.time()
            old.signal(signal.SIGTERM)

    # --- Servers ---------------------------------------------------------------------------------------

    def kill_server(self, step: Step, server: Callable[[], RedisServer]) -> None:
        """Kill a server; it comes back with what was on its disk."""
        with self.stage.fault(FaultKind(step.action)):
            server().crash()
            time.sleep(step.seconds)
            server().restart()

    def pause(self, step: Step, server: Callable[[], RedisServer]) -> None:
        """Stop a server for a while."""
        with self.stage.fault(FaultKind(step.action)):
            container = server().container
            container.pause()
            time.sleep(step.seconds)
            container.unpause()

    def fill(self, step: Step, server: Callable[[], RedisServer]) -> None:
        """Leave a server no room for a while."""
        with self.stage.fault(FaultKind(step.action)), client_of(server().port) as client:
            client.config_set("maxmemory", FULL)
            time.sleep(step.seconds)
            client.config_set("maxmemory", 0)

    def read_only(self, step: Step) -> None:
        """Have the broker be a replica for a while: of a server that is not there."""
        with self.stage.fault(FaultKind.BROKER_READ_ONLY), client_of(self.servers.primary.port) as client:
            client.replicaof("127.0.0.1", NOBODY)
            time.sleep(step.seconds)
            client.replicaof("NO", "ONE")

    def silence(self, step: Step) -> None:
        """Have all connections to the broker carry nothing for a while."""
        with self.stage.fault(FaultKind.BROKER_SILENT):
            self.stage.silent = True
            self.servers.proxy.silence(True)
            time.sleep(step.seconds)
            self.servers.proxy.silence(False)
            self.stage.silent = False

    def fail_over(self, _: Step) -> None:
        """Have the replica take over."""
        with self.stage.fault(FaultKind.FAILOVER):
            self.servers.fail_over()
        self.servers.replace_dead()

    # --- Supervisors -----------------------------------------------------------------------------------

    def kill_supervisor(self, step: Step) -> None:
        """Kill a supervisor, but not its workers."""
        supervisor = self.stage.supervisors[step.target % len(self.stage.supervisors)]
        supervisor.descendants()
        with self.stage.fault(FaultKind.KILL_SUPERVISOR, supervisor.pid):
            supervisor.signal(signal.SIGKILL)

    def freeze_supervisor(self, step: Step) -> None:
        """Stop a supervisor for a while, but not its workers."""
        supervisor = self.stage.supervisors[step.target % len(self.stage.supervisors)]
        with self.stage.fault(FaultKind.FREEZE_SUPERVISOR, supervisor.pid):
            supervisor.signal(signal.SIGSTOP)
            time.sleep(step.seconds)
            supervisor.signal(signal.SIGCONT)

    def terminate_supervisor(self, step: Step) -> None:
        """Ask a supervisor to end; its workers end before it."""
        supervisor = self.stage.supervisors[step.target % len(self.stage.supervisors)]
        with self.stage.fault(FaultKind.TERM_SUPERVISOR, supervisor.pid):
            supervisor.asked = supervisor.asked or time.time()
            supervisor.signal(signal.SIGTERM)

    def reload(self, step: Step) -> None:
        """Have a supervisor read other settings."""
        supervisor = self.stage.supervisors[step.target % len(self.stage.supervisors)]
        with self.stage.fault(FaultKind.RELOAD, supervisor.pid):
            self.stage.maximum = step.number
            self.stage.write_settings(supervisor.name.rpartition(".")[0])
            # One that begins or ends has no handler for it.
            if supervisor.ready and supervisor.asked is None:
                supervisor.signal(signal.SIGHUP)

    def scale(self, step: Step) -> None:
        """Set other bounds for the group, or take them back."""
        broker = self.broker()
        choices: list[dict[str, int | None]] = [
            {"max_workers": step.number},
            {"min_workers": 1, "max_workers": 1},
            {"min_workers": None, "max_workers": None},
        ]
        bounds = choices[step.target % len(choices)]
        with self.stage.fault(FaultKind.SCALE, subject=str(bounds)):
            change(broker, GROUP, Sender("histories"), **bounds)

    def broker(self) -> Broker:
        """Return the broker as commands see it."""
        return Broker(client_of(self.servers.primary.port), KEYS, SEPARATOR, STEPS)
