# Images of Celery Fleet.
#   host      a bare Debian host with systemd: what inventories/local and the Molecule scenarios deploy to
#   services  Redis and PostgreSQL from Debian, for tests that need a server and no deployment
#
# By hand: docker build --target host --build-arg BASE=debian:13-slim -t celery-fleet/host:trixie .
# Builds with BuildKit and with the legacy builder alike.
ARG BASE=debian:12-slim

FROM ${BASE} AS host
ENV container=docker
# .cache/ca holds the machine's CA bundle where `make` found one; apt uses it for mirrors behind TLS inspection.
COPY Dockerfile .cache/ca* /tmp/build/
RUN set -eu; \
    if [ -e /tmp/build/ca-bundle.crt ]; then \
        echo 'Acquire::https::CAInfo "/tmp/build/ca-bundle.crt";' >/etc/apt/apt.conf.d/00build-ca; \
    fi; \
    apt-get update -q; \
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
        ca-certificates dbus iproute2 procps python3 python3-apt sudo systemd-sysv; \
    systemctl mask systemd-logind.service getty.target console-getty.service apt-daily.timer \
        apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer; \
    : >/etc/machine-id; \
    rm -rf /tmp/build /etc/apt/apt.conf.d/00build-ca /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb; \
    # With a fresh time stamp Ansible's apt would take the empty package lists for new ones.
    touch -d @0 /var/lib/apt/lists
STOPSIGNAL SIGRTMIN+3
CMD ["/lib/systemd/systemd"]

FROM ${BASE} AS services
COPY Dockerfile .cache/ca* /tmp/build/
RUN set -eu; \
    if [ -e /tmp/build/ca-bundle.crt ]; then \
        echo 'Acquire::https::CAInfo "/tmp/build/ca-bundle.crt";' >/etc/apt/apt.conf.d/00build-ca; \
    fi; \
    apt-get update -q; \
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends redis-server postgresql; \
    rm -rf /tmp/build /etc/apt/apt.conf.d/00build-ca /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb
