# Becomes the PostgreSQL server; makes the cluster at the first start, all of it or nothing.
set -eu
programs=$(echo /usr/lib/postgresql/*/bin)
version=$(basename "$(dirname "$programs")")
folder=/var/lib/postgresql/compose
cluster=$folder/main
options="-c hba_file=/compose/pg_hba.conf -c unix_socket_directories=$PGHOST"

if [ ! -d "$cluster" ]; then
    rm -rf "$folder/new"
    "$programs/initdb" --pgdata="$folder/new" --username=postgres --auth-local=peer --auth-host=scram-sha-256 \
        --data-checksums --encoding=UTF8 --locale=C.UTF-8 >/dev/null
    cp /compose/postgresql.conf "$folder/new/postgresql.auto.conf"
    "$programs/pg_ctl" --pgdata="$folder/new" --silent --wait \
        --options="-c listen_addresses='' $options" start
    psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --dbname=postgres --file=/compose/postgres.sql
    "$programs/pg_ctl" --pgdata="$folder/new" --silent --wait --mode=fast stop
    mv "$folder/new" "$cluster"
fi
found=$(cat "$cluster/PG_VERSION")
if [ "$found" != "$version" ]; then
    echo "The data in the volume postgres-data are of PostgreSQL $found, this image has $version." \
        "Dump them with the former image, or remove the volume." >&2
    exit 1
fi
# What the role renders now, not what it rendered at the first start.
cp /compose/postgresql.conf "$cluster/postgresql.auto.conf"
# shellcheck disable=SC2086 # one word an option
exec "$programs/postgres" -D "$cluster" $options
