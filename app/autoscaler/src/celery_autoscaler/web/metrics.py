"""Metrics of a supervisor for Prometheus, made from its status when they are asked for."""

import time
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from celery_autoscaler.protocol.status import SupervisorStatus
from celery_autoscaler.protocol.tallies import BUCKETS, Histogram
from celery_autoscaler.protocol.text import as_text
from celery_autoscaler.supervisor.loop import Supervisor

PREFIX = "celery_autoscaler_"
# Seconds by which a tick is late before what it saw is no figure of now.
LATE_SECONDS = 10.0
# Characters of a label's value.
MOST_LABEL_CHARACTERS = 200
# Metric, its help, the field of a group's status.
GROUP_GAUGES = (
    ("workers_wanted", "Workers of the fleet that the load needs.", "want"),
    ("slots", "Tasks that the workers that consume run at a time.", "slots"),
    ("slots_wanted", "Slots of the fleet that the load needs.", "want_slots"),
    ("min_workers", "Workers of the fleet that always run.", "min_workers"),
    ("max_workers", "Workers that the fleet never exceeds.", "max_workers"),
    ("tasks_running", "Running tasks.", "busy"),
    ("tasks_reserved", "Tasks that workers hold and have not started.", "held"),
    ("tasks_overdue", "Tasks in workers whose ETA has come and that have not started.", "overdue"),
    ("oldest_overdue_seconds", "Seconds since the ETA of the oldest overdue task.", "overdue_age"),
    (
        "not_served",
        "1 if a group with a minimum has had no worker for longer than a start takes.",
        "not_served",
    ),
    (
        "oldest_task_wait_seconds",
        "Wait of the oldest task in seconds. Alert when it exceeds the target wait for minutes.",
        "age",
    ),
    ("target_wait_seconds", "Target wait in seconds.", "target_wait"),
    ("task_arrivals_per_second", "Arriving tasks a second, over 30 s.", "arrivals"),
    (
        "task_service_seconds",
        "Mean run time of a task in seconds; absent before the first one.",
        "service_time",
    ),
    ("worker_startup_seconds", "Seconds from a worker's start until it consumes.", "startup"),
)
QUEUE_GAUGES = (
    (
        "queue_messages",
        "Messages in a queue over all priority steps, including those with a future ETA.",
        "messages",
    ),
    ("queue_future_messages", "Messages in a queue with a future ETA.", "future"),
    ("queue_oldest_message_seconds", "Wait of the oldest message of a queue in seconds.", "age"),
    (
        "queue_dead_letters",
        "Dead letters of a queue: messages that came back too often. Alert when they increase.",
        "dead_letters",
    ),
)
WORKER_STATES = ("ready", "starting", "draining")


class Collector:
    """Reads the supervisor at each scrape; nothing is counted twice."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        supervisor, status = self.supervisor, self.supervisor.status
        late = time.monotonic() - supervisor.last_tick - supervisor.settings.tick > LATE_SECONDS
        blind = late or status.state == "blind"
        # What was seen before is no figure of now: none is better than a wrong one.
        groups = {} if blind else status.groups
        for name, text, field in GROUP_GAUGES:
            gauge = GaugeMetricFamily(PREFIX + name, text, labels=["group"])
            for group, found in groups.items():
                if (value := getattr(found, field)) is not None:
                    gauge.add_metric([group], value)
            yield gauge
        workers = GaugeMetricFamily(PREFIX + "workers", "Workers of the fleet.", labels=["group", "state"])
        for group, found in groups.items():
            for state in WORKER_STATES:
                workers.add_metric([group, state], getattr(found, state))
        yield workers
        for name, text, field in QUEUE_GAUGES:
            gauge = GaugeMetricFamily(PREFIX + name, text, labels=["group", "queue"])
            for group, found in groups.items():
                for queue, figures in found.queues.items():
                    gauge.add_metric([group, label(queue)], getattr(figures, field))
            yield gauge
        yield from self._counters()
        yield from self._tasks()
        if status.at and not late:
            yield from self._host(status)
        yield from self._reading(status)
        yield GaugeMetricFamily(
            PREFIX + "blind",
            "1 if the broker does not answer or the tick hangs; then there are no fleet metrics.",
            value=float(blind),
        )
        yield GaugeMetricFamily(
            PREFIX + "tick_seconds",
            "Duration of the last tick in seconds.",
            value=supervisor.context.tick_seconds,
        )

    def _counters(self) -> Iterator[Metric]:
        counts = self.supervisor.counts
        for name, text, found in (
            ("workers_started", "Workers started on this host.", counts.started),
            ("workers_stopped", "Workers of this host that stopped on request.", counts.stopped),
            ("workers_died", "Workers of this host that died.", counts.died),
        ):
            counter = CounterMetricFamily(PREFIX + name, text, labels=["group"])
            for group in self.supervisor.groups:
                counter.add_metric([group], found.get(group, 0))
            yield counter
        yield CounterMetricFamily(
            PREFIX + "messages_recovered",
            "Messages of dead workers that this supervisor gave back.",
            value=counts.recovered,
        )
        yield CounterMetricFamily(
            PREFIX + "orphaned_records",
            "Records without an owner that were given back. Shared by the fleet: take the max.",
            value=counts.orphans,
        )

    def _tasks(self) -> Iterator[Metric]:
        labels = ["task", "queue"]
        total = CounterMetricFamily(
            "celery_tasks", "Finished executions by outcome; each try counts.", labels=[*labels, "outcome"]
        )
        runtime = HistogramMetricFamily(
            "celery_task_runtime_seconds",
            "Run time of tasks in seconds, whatever their outcome.",
            labels=labels,
        )
        wait = HistogramMetricFamily(
            "celery_task_wait_seconds",
            "Seconds from the publication of a task, or its later ETA, to its start.",
            labels=labels,
        )
        told: set[tuple[str, ...]] = set()
        # In one step: the supervisor's thread may add one meanwhile.
        for kind, tally in list(self.supervisor.task_counts.tallies.items()):
            shown = [label(name) for name in kind]
            # Two names that look the same would make Prometheus refuse all metrics.
            if tuple(shown) in told:
                continue
            told.add(tuple(shown))
            for outcome, count in list(tally.outcomes.items()):
                total.add_metric([*shown, label(outcome)], count)
            for family, histogram in ((runtime, tally.runtime), (wait, tally.wait)):
                family.add_metric(shown, cumulative(histogram), histogram.total)
        yield from (total, runtime, wait)

    def _reading(self, status: SupervisorStatus) -> Iterator[Metric]:
        """Yield what could not be read or done, and how far the clock is off."""
        unreadable = CounterMetricFamily(
            PREFIX + "unreadable",
            "Unreadable values in the fleet's keys: ignored, and named in log and status.",
            labels=["kind"],
        )
        for kind, count in list(self.supervisor.context.unreadable.counts.items()):
            unreadable.add_metric([kind], count)
        yield unreadable
        yield CounterMetricFamily(
            PREFIX + "faults",
            "Parts of ticks that failed and were skipped, such as a unit that systemd does not stop.",
            value=self.supervisor.context.faults.count,
        )
        yield GaugeMetricFamily(
            PREFIX + "clock_offset_seconds",
            "Seconds by which Redis' clock is ahead of this host: ETA tasks start off by as much.",
            value=status.clock_offset,
        )

    def _host(self, status: SupervisorStatus) -> Iterator[Metric]:
        for name, text, field in (
            ("host_cpu_ratio", "CPU use of the host, or of the cgroup that limits it, from 0 to 1.", "cpu"),
            (
                "host_memory_ratio",
                "Memory use of the host, or of the cgroup that limits it, from 0 to 1.",
                "memory",
            ),
        ):
            yield GaugeMetricFamily(PREFIX + name, text, value=getattr(status, field) / 100)


def label(value: str) -> str:
    """Return a name from outside as the value of a label."""
    return as_text(value, MOST_LABEL_CHARACTERS)


def cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    """Return the buckets as Prometheus has them: each holds the smaller ones."""
    ends = [*(f"{end:g}" for end in BUCKETS), "+Inf"]
    return list(zip(ends, accumulate(histogram.counts), strict=True))


def registry(supervisor: Supervisor) -> CollectorRegistry:
    """Return a registry that holds the metrics of one supervisor."""
    made = CollectorRegistry()
    made.register(Collector(supervisor))
    return made
