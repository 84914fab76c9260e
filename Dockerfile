# Images of Celery Fleet.
#   host      a bare Debian host with systemd: what inventories/local and the scenarios about one service deploy to
#   used-host the same with the packages of the roles, but no server: what the other scenarios need not install again
#   services  Redis and PostgreSQL from Debian, for compose.yaml and for tests that need a server and no deployment
#   app       a Celery project, for compose.yaml: PROJECT is its folder in this checkout; and apart from it its supervisor
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
    # Docker mounts a tmpfs with the mode of the folder below it, and a container that is restarted gets it again.
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

# Supervisor, page and command, whose requirements no project's can conflict with, and the worker side for the project.
FROM python-build AS supervisor-build
COPY app/autoscaler/requirements.txt /build/
RUN set -eu; \
    python3 -m venv --without-pip /opt/supervisor; \
    /opt/app/bin/pip --python=/opt/supervisor/bin/python install --quiet --require-hashes --requirement /build/requirements.txt
COPY app/autoscaler /build/autoscaler/
RUN set -eu; \
    /opt/app/bin/pip wheel --quiet --no-deps --wheel-dir /build/worker /build/autoscaler/worker; \
    /opt/app/bin/pip --python=/opt/supervisor/bin/python install --quiet --no-deps /build/autoscaler; \
    /opt/app/bin/pip --python=/opt/supervisor/bin/python check; \
    # PYTHONPATH is the project's: -E leaves it to the workers.
    sed -i '1s/$/ -EBu/' /opt/supervisor/bin/celery-autoscaler /opt/supervisor/bin/fleet; \
    # The same sources make the same files: no time of this build in the byte code.
    python3 -m compileall -q --invalidation-mode unchecked-hash /opt/supervisor/lib

# What reads lock files, as the role celery_app reads them.
FROM python-build AS lock-reader
COPY roles/celery_app/files /build/files/
RUN set -eu; \
    python3 -m venv /opt/reader; \
    /opt/reader/bin/pip install --quiet --require-hashes --requirement /build/files/build.txt
COPY plugins/module_utils/bundle_error.py plugins/module_utils/celery_*.py \
    /build/ansible_collections/celery_fleet/platform/plugins/module_utils/
COPY compose/install-project /build/
ENV PYTHONPATH=/build ROLE_FILES=/build/files

# What the lock names comes first: an edit of the code does not install it again.
FROM lock-reader AS app-build
ARG PROJECT=app/tasks
ARG REQUIREMENTS=requirements.txt
ARG REQUIREMENTS_EXTRAS
ARG REQUIREMENTS_GROUPS
ARG REQUIREMENTS_SDISTS
# uv and Poetry need the pyproject.toml, too, where there is one.
COPY ${PROJECT}/${REQUIREMENTS} ${PROJECT}/pyproject.tom[l] /build/lock/
RUN /opt/reader/bin/python /build/install-project /build/lock "/build/lock/$(basename "$REQUIREMENTS")" /opt/app
COPY --from=supervisor-build /build/worker /build/worker/
COPY ${PROJECT} /build/project/
# A project without a build system is imported from /project as it is.
RUN set -eu; \
    /opt/app/bin/pip install --quiet --no-deps --no-index /build/worker/*.whl; \
    if [ -e /build/project/setup.py ] || grep -qs '^\[build-system\]' /build/project/pyproject.toml; then \
        /opt/app/bin/pip install --quiet --no-deps /build/project; \
    fi; \
    mkdir /project; \
    cp -a /build/project/. /project/; \
    /opt/app/bin/pip check; \
    /opt/app/bin/pip uninstall --quiet --yes pip setuptools; \
    /opt/app/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/app/lib

FROM python AS app
ARG PROJECT=app/tasks
ARG PACKAGES=""
COPY scripts/apt-install .cache/ca* /tmp/build/
# Of the distribution, what the project needs.
RUN if [ -n "$PACKAGES" ]; then /tmp/build/apt-install $PACKAGES; fi; rm -rf /tmp/build
LABEL org.opencontainers.image.title="Celery Fleet: app" \
    org.opencontainers.image.version="0.2.0" \
    org.opencontainers.image.description="The Celery project in ${PROJECT}, and the supervisor of its workers" \
    org.opencontainers.image.licenses="MIT"
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin celery
COPY --from=supervisor-build /opt/supervisor /opt/supervisor
COPY --from=app-build /opt/app /opt/app
COPY --from=app-build /project /project
COPY compose/with-secrets compose/fleet /usr/local/bin/
RUN ln -s /opt/supervisor/bin/celery-autoscaler /usr/local/bin/
# The mounted sources come before what was installed of them.
ENV CELERY_APP_PYTHON=/opt/app/bin/python
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
