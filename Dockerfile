# Images of Celery Fleet.
#   host      a bare Debian host with systemd: what inventories/local and the scenarios about one service deploy to
#   used-host the same with the packages of the roles, but no server: what the other scenarios need not install anew
#   services  Redis and PostgreSQL from Debian, for compose.yaml and for tests that need a server and no deployment
#   app       a Celery project with its supervisor, for compose.yaml: PROJECT is its folder in this checkout
#   flower, prometheus   what profiles of compose.yaml add
#
# By hand: docker build --target host --build-arg BASE=debian:13-slim -t celery-fleet/host:trixie .
# Builds with BuildKit and with the legacy builder alike.
ARG BASE=debian:12-slim

FROM ${BASE} AS host
ENV container=docker
# .cache/ca holds the machine's CA bundle where `make` found one.
COPY scripts/apt-install .cache/ca* /tmp/build/
RUN set -eu; \
    KEEP_LISTS=1 /tmp/build/apt-install ca-certificates dbus iproute2 procps python3 python3-apt sudo systemd-sysv; \
    systemctl mask systemd-logind.service getty.target console-getty.service apt-daily.timer \
        apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer; \
    : >/etc/machine-id; \
    rm -rf /tmp/build
STOPSIGNAL SIGRTMIN+3
CMD ["/lib/systemd/systemd"]

FROM host AS used-host
COPY scripts/apt-install .cache/ca* /tmp/build/
# And the libraries of the servers, but not the servers.
RUN set -eu; \
    servers='postgresql redis-server'; \
    apt-get install --simulate --no-install-recommends $servers | \
        sed -nE 's/^Inst ([^ ]+) .*/\1/p' | grep -vxE 'postgresql(-[0-9]+)?|redis-server' >/tmp/build/libraries; \
    KEEP_LISTS=1 /tmp/build/apt-install acl polkitd python3-psycopg2 python3-venv tzdata $(cat /tmp/build/libraries); \
    rm -rf /tmp/build

FROM ${BASE} AS services
COPY scripts/apt-install .cache/ca* /tmp/build/
RUN set -eu; \
    /tmp/build/apt-install redis-server postgresql; \
    install -d -o postgres -g postgres -m 0700 /var/lib/postgresql/compose; \
    # Docker mounts a tmpfs with the mode of the folder below it, and a container that is restarted gets it anew.
    install -d -m 1777 /run/redis /run/sockets; \
    rm -rf /tmp/build

FROM ${BASE} AS python
COPY scripts/apt-install .cache/ca* /tmp/build/
RUN /tmp/build/apt-install ca-certificates python3 && rm -rf /tmp/build

FROM python AS python-build
COPY scripts/apt-install .cache/ca* /tmp/ca/
RUN set -eu; \
    /tmp/ca/apt-install python3-venv; \
    python3 -m venv /opt/app; \
    cat /etc/ssl/certs/ca-certificates.crt /tmp/ca/*.crt >/tmp/ca/all.pem 2>/dev/null || true
ENV PIP_CERT=/tmp/ca/all.pem PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# What the locks name comes first: an edit of the code does not install it again.
FROM python-build AS app-build
ARG PROJECT=app/tasks
COPY compose/merge-locks ${PROJECT}/requirements.txt /build/project/
COPY app/autoscaler/requirements.txt /build/autoscaler/
RUN set -eu; \
    python3 /build/project/merge-locks /build/project/requirements.txt /build/autoscaler/requirements.txt >/build/lock.txt; \
    /opt/app/bin/pip install --quiet --require-hashes --requirement /build/lock.txt
COPY app/autoscaler /build/autoscaler/
COPY ${PROJECT} /build/project/
# A project without a pyproject.toml is imported from /project as it is.
RUN set -eu; \
    /opt/app/bin/pip install --quiet --no-deps /build/autoscaler; \
    if [ -e /build/project/pyproject.toml ]; then /opt/app/bin/pip install --quiet --no-deps /build/project; fi; \
    mkdir /project; \
    cp -a /build/project/. /project/; \
    rm /project/merge-locks; \
    /opt/app/bin/pip check; \
    /opt/app/bin/pip uninstall --quiet --yes pip setuptools; \
    # The same sources make the same files: no time of this build in the byte code.
    /opt/app/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/app/lib

FROM python AS app
ARG PROJECT=app/tasks
LABEL org.opencontainers.image.title="Celery Fleet: app" \
    org.opencontainers.image.version="0.2.0" \
    org.opencontainers.image.description="The Celery project in ${PROJECT}, and the supervisor of its workers" \
    org.opencontainers.image.licenses="MIT"
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin celery
COPY --from=app-build /opt/app /opt/app
COPY --from=app-build /project /project
COPY compose/with-secrets /usr/local/bin/
# The mounted sources come before what was installed of them.
ENV PATH=/opt/app/bin:/usr/local/bin:/usr/bin:/bin PYTHONPATH=/project/src:/project PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER celery
WORKDIR /tmp
ENTRYPOINT ["with-secrets"]
CMD ["celery-autoscaler", "run"]

FROM python-build AS flower-build
COPY compose/flower.txt /build/
RUN set -eu; \
    /opt/app/bin/pip install --quiet --require-hashes --requirement /build/flower.txt; \
    /opt/app/bin/pip uninstall --quiet --yes pip setuptools

FROM python AS flower
LABEL org.opencontainers.image.title="Celery Fleet: Flower" \
    org.opencontainers.image.version="0.2.0" \
    org.opencontainers.image.licenses="MIT"
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin celery
COPY --from=flower-build /opt/app /opt/app
COPY compose/with-secrets /usr/local/bin/
ENV PATH=/opt/app/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER celery
WORKDIR /tmp
ENTRYPOINT ["with-secrets"]
CMD ["celery", "flower", "--address=0.0.0.0"]

FROM ${BASE} AS prometheus
LABEL org.opencontainers.image.title="Celery Fleet: Prometheus" \
    org.opencontainers.image.version="0.2.0" \
    org.opencontainers.image.licenses="MIT"
COPY scripts/apt-install .cache/ca* /tmp/build/
RUN set -eu; \
    /tmp/build/apt-install prometheus; \
    install -d -o nobody -g nogroup -m 0750 /var/lib/prometheus/compose; \
    rm -rf /tmp/build
USER nobody
CMD ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/var/lib/prometheus/compose"]
