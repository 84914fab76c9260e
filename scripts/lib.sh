# shellcheck shell=bash
# Sourced by the scripts beside it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Here Python starts a thousand times: what it compiles it keeps, whatever this shell says.
unset PYTHONDONTWRITEBYTECODE

# The CA bundle of this machine, for those behind a TLS-inspecting proxy: CA_BUNDLE, else what other tools are told.
CA_BUNDLE=${CA_BUNDLE:-${SSL_CERT_FILE:-${REQUESTS_CA_BUNDLE:-${CURL_CA_BUNDLE:-${PIP_CERT:-}}}}}
if [ -n "$CA_BUNDLE" ]; then
    [ -r "$CA_BUNDLE" ] || die "CA_BUNDLE=$CA_BUNDLE cannot be read; give the path of a PEM file, or leave it unset"
    export CA_BUNDLE PIP_CERT="$CA_BUNDLE" SSL_CERT_FILE="$CA_BUNDLE" REQUESTS_CA_BUNDLE="$CA_BUNDLE"
fi

is_debian_family() { [ -r /etc/os-release ] && grep -qE '^ID(_LIKE)?=.*debian' /etc/os-release; }

# As root on a Debian family machine, install the distribution's packages; elsewhere name what is missing.
# Of several that would, one does at a time.
install_packages() {
    local what=$1 lock
    shift
    if [ "$(id -u)" -ne 0 ] || ! is_debian_family; then
        die "$what is missing: install it, or run this as root on Debian, which installs it from the distribution"
    fi
    say "Installing $what from the distribution ($*)"
    mkdir -p .cache
    exec {lock}>.cache/apt.lock
    flock "$lock"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@" >/dev/null
    flock --unlock "$lock"
    exec {lock}>&-
}
