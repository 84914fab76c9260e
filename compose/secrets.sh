# Generates the passwords of the stack at its first start and keeps them; writes for each service what it may know,
# readable by its user only. Run as root, without a network.
set -eu
umask 077
volumes=/volumes

for name in app operator owner database token read-token; do
    file=$volumes/all/$name
    if [ ! -s "$file" ]; then
        tr -dc 'A-Za-z0-9' </dev/urandom | head -c 32 >"$file.new"
        mv "$file.new" "$file"
    fi
done

password() { cat "$volumes/all/$1"; }
hash() { password "$1" | sha256sum | cut -d' ' -f1; }

# give USER FILE: standard input becomes a file that USER alone can read.
give() {
    cat >"$2.new"
    chown "$1" "$2.new"
    chmod 0400 "$2.new"
    mv "$2.new" "$2"
}

app_user=10001
sed -e "s/#<app>/#$(hash app)/" -e "s/#<operator>/#$(hash operator)/" /compose/users.acl | give redis $volumes/redis/users.acl
password operator | give redis $volumes/redis/operator
password owner | give postgres $volumes/postgres/owner
password database | give postgres $volumes/postgres/app
password token | give $app_user $volumes/app/token
password read-token | give $app_user $volumes/app/read-token
password read-token | give nobody $volumes/prometheus/read-token

# What is not set otherwise.
broker() {
    cat <<END
: "\${CELERY_BROKER_URL:=redis://app:$(password app)@redis:6379/0}"
: "\${CELERY_RESULT_BACKEND:=redis://app:$(password app)@redis:6379/1}"
export CELERY_BROKER_URL CELERY_RESULT_BACKEND
END
}

# database PASSWORD: the same, for a service that uses the database too.
database() {
    broker
    cat <<END
: "\${DB_PASSWORD:=$(password "$1")}"
export DB_PASSWORD
END
}
database database | give $app_user $volumes/app/environment
database database | give $app_user $volumes/beat/environment
database owner | give $app_user $volumes/migrate/environment
broker | give $app_user $volumes/flower/environment

# Their users have to get to the files.
cd $volumes
chmod 0755 redis postgres app beat flower migrate prometheus
