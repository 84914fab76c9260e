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

# environment PASSWORD-OF-THE-DATABASE: what is not set otherwise.
environment() {
    cat <<END
: "\${CELERY_BROKER_URL:=redis://app:$(password app)@redis:6379/0}"
: "\${CELERY_RESULT_BACKEND:=redis://app:$(password app)@redis:6379/1}"
: "\${DB_PASSWORD:=$(password "$1")}"
export CELERY_BROKER_URL CELERY_RESULT_BACKEND DB_PASSWORD
END
}
environment database | give $app_user $volumes/app/environment
environment owner | give $app_user $volumes/migrate/environment

# Their users have to get to the files.
chmod 0755 $volumes/redis $volumes/postgres $volumes/app $volumes/migrate $volumes/prometheus
