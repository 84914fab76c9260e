"""The commands of operators, in the order in which a help shows them."""

from celery_autoscaler.operations import (
    dead_letter_commands,
    failure_commands,
    operator_commands,
    replay_commands,
    status_commands,
    task_commands,
)

COMMANDS = (
    status_commands.status,
    status_commands.watch,
    status_commands.why,
    task_commands.show_tasks,
    failure_commands.show_failures,
    failure_commands.retry,
    replay_commands.replay,
    replay_commands.record,
    operator_commands.pause,
    operator_commands.resume,
    operator_commands.scale,
    operator_commands.drain,
    operator_commands.replace,
    operator_commands.recover,
    dead_letter_commands.dead_letter,
    status_commands.check_settings,
)
