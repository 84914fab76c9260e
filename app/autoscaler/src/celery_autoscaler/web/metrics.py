"""Metrics of a supervisor for Prometheus, made from its status when they are asked for."""

import time
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from celery_autoscaler.protocol.tallies import BUCKETS, Histogram
from celery_autoscaler.protocol.text import as_text
from celery_autoscaler.supervisor.loop import Supervisor

PREFIX = "celery_autoscaler_"
# Seconds by which a tick is late before what it saw is no figure of now.
LATE = 10.0
# Characters of a label's value.
MOST_LABEL = 200
# Metric, its help, the field of a group's status.
GROUP_GAUGES = (
    ("workers_wanted", "Workers of the fleet that the load needs.", "want"),
    ("workers_minimum", "Workers of the fleet that always run.", "minimum"),
    ("workers_maximum", "Workers that the fleet never exceeds.", "maximum"),
    ("tasks_running", "Tasks that run.", "busy"),
    ("tasks_reserved", "Tasks that workers hold and have not begun.", "held"),
    ("tasks_overdue", "Tasks whose ETA has come and that have not begun.", "overdue"),
    ("oldest_overdue_seconds", "Seconds since the ETA of the first of these.", "overdue_age"),
    (
        "not_served",
        "Whether no worker serves a group that asks for one, for longer than a start.",
        "not_served",
    ),
    ("oldest_task_wait_seconds", "Seconds for which the oldest task has waited.", "age"),
    ("promised_wait_seconds", "Seconds within which tasks are promised to start.", "promise"),
    ("task_arrivals_per_second", "Tasks that arrive.", "arrivals"),
    ("task_service_seconds", "Seconds that a task takes in the mean.", "service_time"),
    ("worker_startup_seconds", "Seconds from a worker's start until it consumes.", "startup"),
)
QUEUE_GAUGES = (
    ("queue_messages", "Messages in a queue, those for the future among them.", "messages"),
    ("queue_future_messages", "Messages in a queue whose ETA has not come.", "future"),
    ("queue_oldest_message_seconds", "Seconds for which the oldest message of a queue has waited.", "age"),
    ("queue_dead_letters", "Dead letters of a queue: messages that came back too often.", "dead_letters"),
)
WORKER_STATES = ("ready", "starting", "draining")


class Collector:
    """Reads the supervisor at each scrape; nothing is counted twice."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        supervisor, status = self.supervisor, self.supervisor.status
        late = time.monotonic() - supervisor.last_tick - supervisor.settings.tick > LATE
        blind = late or status.get("state") == "blind"
        # What was seen before is no figure of now: none is better than a wrong one.
        groups: dict[str, dict[str, Any]] = {} if blind else status.get("groups", {})
        for name, text, field in GROUP_GAUGES:
            gauge = GaugeMetricFamily(PREFIX + name, text, labels=["group"])
            for group, found in groups.items():
                if found[field] is not None:
                    gauge.add_metric([group], found[field])
            yield gauge
        workers = GaugeMetricFamily(PREFIX + "workers", "Workers of the fleet.", labels=["group", "state"])
        for group, found in groups.items():
            for state in WORKER_STATES:
                workers.add_metric([group, state], found[state])
        yield workers
        for name, text, field in QUEUE_GAUGES:
            gauge = GaugeMetricFamily(PREFIX + name, text, labels=["group", "queue"])
            for group, found in groups.items():
                for queue, figures in found["queues"].items():
                    gauge.add_metric([group, label(queue)], figures[field])
            yield gauge
        yield from self._counters()
        yield from self._tasks()
        yield from self._host({} if late else status)
        yield from self._reading(status)
        yield GaugeMetricFamily(
            PREFIX + "blind", "Whether the broker does not answer, or the tick hangs.", value=float(blind)
        )
        yield GaugeMetricFamily(
            PREFIX + "tick_seconds", "Seconds that the last tick took.", value=supervisor.tick_seconds
        )

    def _counters(self) -> Iterator[Metric]:
        counts = self.supervisor.counts
        for name, text, found in (
            ("workers_started", "Workers that were started on this host.", counts.started),
            ("workers_stopped", "Workers of this host that ended when told to.", counts.stopped),
            ("workers_died", "Workers of this host that ended without being told to.", counts.died),
        ):
            counter = CounterMetricFamily(PREFIX + name, text, labels=["group"])
            for group in self.supervisor.groups:
                counter.add_metric([group], found.get(group, 0))
            yield counter
        yield CounterMetricFamily(
            PREFIX + "messages_recovered", "Messages of dead workers given back.", value=counts.recovered
        )
        yield CounterMetricFamily(
            PREFIX + "orphaned_records", "Records found that belonged to no worker.", value=counts.orphans
        )

    def _tasks(self) -> Iterator[Metric]:
        labels = ["task", "queue"]
        total = CounterMetricFamily(
            "celery_tasks", "Tasks that ended on this host.", labels=[*labels, "outcome"]
        )
        runtime = HistogramMetricFamily(
            "celery_task_runtime_seconds", "Seconds that tasks took on this host.", labels=labels
        )
        wait = HistogramMetricFamily(
            "celery_task_wait_seconds",
            "Seconds from a task's publication, or its ETA, to its start on this host.",
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

    def _reading(self, status: dict[str, Any]) -> Iterator[Metric]:
        """Yield what could not be read or done, and how far the clock is off."""
        unreadable = CounterMetricFamily(
            PREFIX + "unreadable", "Things under the fleet's keys that could not be read.", labels=["kind"]
        )
        for kind, count in list(self.supervisor.context.unreadable.counts.items()):
            unreadable.add_metric([kind], count)
        yield unreadable
        yield CounterMetricFamily(
            PREFIX + "faults", "Parts of ticks that failed.", value=self.supervisor.context.faults.count
        )
        yield GaugeMetricFamily(
            PREFIX + "clock_offset_seconds",
            "Seconds by which the clock of Redis is ahead of this host's.",
            value=status.get("clock_offset", 0.0),
        )

    def _host(self, status: dict[str, Any]) -> Iterator[Metric]:
        for name, text, field in (
            ("host_cpu_ratio", "CPUs in use of those that there are.", "cpu"),
            ("host_memory_ratio", "Memory in use of what there is.", "memory"),
        ):
            if field in status:
                yield GaugeMetricFamily(PREFIX + name, text, value=status[field] / 100)


def label(value: str) -> str:
    """Return a name from outside as the value of a label."""
    return as_text(value, MOST_LABEL)


def cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    """Return the buckets as Prometheus has them: each holds the smaller ones."""
    ends = [*(f"{end:g}" for end in BUCKETS), "+Inf"]
    return list(zip(ends, accumulate(histogram.counts), strict=True))


def registry(supervisor: Supervisor) -> CollectorRegistry:
    """Return a registry that holds the metrics of one supervisor."""
    made = CollectorRegistry()
    made.register(Collector(supervisor))
    return made
