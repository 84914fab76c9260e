"""The configuration of Celery, which imports this module when it first needs a value.

Late acknowledgement: a message leaves the broker only after its task has ended, and goes back if the worker
dies before. So no accepted task is lost, but a task may run again after it has done part or all of its work:
EVERY TASK MUST BE IDEMPOTENT, running it twice must leave what running it once leaves. A task that cannot
promise this says `@app.task(acks_late=False, reject_on_worker_lost=False)` and may be lost instead. A task
that kills its worker each time (out of memory) comes back each time, too.

Importing raises SettingsError if a setting is missing or wrong.
"""

from tasks import connections, queues, schedule
from tasks.settings import settings

# Broker and results. All messages and results are JSON: unpickling a message runs code.
broker_url = settings().celery_broker_url
broker_connection_retry_on_startup = True
# The order of queues stays round robin, the default: all queues of one step get their turn. Steps come before
# queues anyway; the strategy "priority" would only let a full first queue starve the others.
broker_transport_options = {
    "priority_steps": list(queues.PRIORITY_STEPS),
    **connections.SOCKET_OPTIONS,
    **connections.broker_options(broker_url),
}
broker_use_ssl = connections.tls_options(broker_url)
result_backend = settings().celery_result_backend
redis_backend_use_ssl = connections.tls_options(result_backend)
result_backend_transport_options = connections.result_options(result_backend)
redis_socket_timeout = connections.ANSWER_WITHIN_SECONDS
redis_socket_connect_timeout = connections.CONNECT_WITHIN_SECONDS
# A connection that lay idle is asked first whether there is still somebody at its other end.
redis_socket_keepalive = True
redis_backend_health_check_interval = connections.ANSWER_WITHIN_SECONDS
result_expires = 3600  # seconds
result_extended = True  # name and arguments too, for Flower and for the deduplication below
accept_content = ["json"]
result_accept_content = ["json"]
task_serializer = "json"
result_serializer = "json"
event_serializer = "json"
enable_utc = True
timezone = "UTC"

# Queues.
task_queues = queues.declared_queues()
task_routes = queues.routes()  # with the priorities
task_default_queue = queues.DEFAULT_QUEUE
task_default_exchange = queues.DEFAULT_QUEUE
task_default_exchange_type = "direct"
task_default_routing_key = queues.DEFAULT_QUEUE
task_create_missing_queues = False  # a misspelt queue is an error, not a new queue that nobody consumes

# Tasks.
task_acks_late = True
task_reject_on_worker_lost = True
task_track_started = True
task_send_sent_event = True

# Workers.
worker_prefetch_multiplier = 1
worker_max_tasks_per_child = 1000
worker_disable_rate_limits = False
worker_send_task_events = True
worker_hijack_root_logger = False  # tasks/log.py configures it
worker_log_color = False
# A message that comes back although its task succeeded is not run again while its result is kept.
worker_deduplicate_successful_tasks = True
# After a lost connection the broker gives the message to another worker: end our copy of the task.
worker_cancel_long_running_tasks_on_connection_loss = True

# Beat. Seconds by which its lock outlives a dead beat; then another one takes over.
beat_scheduler = "redbeat.RedBeatScheduler"
beat_schedule = schedule.beat_schedule()
beat_max_loop_interval = 5  # seconds; each loop renews the lock
redbeat_redis_url, _sentinel_options = connections.redbeat_options(broker_url)
redbeat_redis_options = {
    "retry_period": 30,
    "socket_timeout": 10,
    "socket_connect_timeout": 10,
    **_sentinel_options,
}
redbeat_lock_timeout = 30  # seconds
