#!/usr/bin/env bash
# Installs what this machine lacks to run, test or bench Farebox, and says what it does.
#
#   scripts/setup.sh run          what `make run` needs: a C compiler and cmake
#   scripts/setup.sh quick        that, and what `make test-quick` needs
#   scripts/setup.sh test         that, and what `make test` needs
#   scripts/setup.sh dist         what running needs, and what packs a release
#   scripts/setup.sh screenshots  that, and what makes the README's pictures small
#   scripts/setup.sh cluster      what running needs, a Redis and a Postgres
#   scripts/setup.sh bench        that, the load generator, and nginx with Lua, which is compared
#   scripts/setup.sh              all of it
#
# On Debian and Ubuntu it installs with apt, through sudo unless you are root; elsewhere it lists
# what to install and exits 1. It touches nothing that is there already. Rust itself is yours to
# install: which toolchain you use is no script's business.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Tools that cargo builds; newer ones may ask for a newer Rust than ours.
readonly nextest_version=0.9.143 deny_version=0.20.2

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

packages=() # Debian's names of what is missing
reasons=()

have() { command -v "$1" >/dev/null 2>&1; }
have_any() { have "$1" || have "$2"; }
# Debian keeps these off the PATH of those who are not root.
have_pgbouncer() { have pgbouncer || [[ -x /usr/sbin/pgbouncer ]]; }
have_lighttpd() { have lighttpd || [[ -x /usr/sbin/lighttpd ]]; }
have_nginx() { have nginx || [[ -x /usr/sbin/nginx ]]; }
# Debian keeps the server's programs off the PATH, in a folder of each version.
have_postgres() { have postgres || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; }

# need PACKAGE WHY CHECK…: the package is missing if the check fails; named by two, it is listed once.
need() {
    local package=$1 why=$2
    shift 2
    if "$@" >/dev/null 2>&1 || [[ " ${packages[*]} " == *" $package "* ]]; then return; fi
    packages+=("$package")
    reasons+=("$package: $why")
}

need_for_run() {
    need build-essential "compiles the C parts of our dependencies: SQLite, aws-lc, mimalloc" have cc
    need cmake "Pingora builds its zlib with it" have cmake
}

need_for_quick() {
    need lighttpd "runs a CGI program behind a gateway in a test" have_lighttpd
    need uwsgi-core "runs a WSGI program behind a gateway in a test" have uwsgi-core
    need uwsgi-plugin-python3 "has uWSGI run Python" ls /usr/lib/uwsgi/plugins/python3_plugin.so
}

need_for_dist() {
    need binutils "strips the binary" have strip
    need dpkg-dev "tells which libraries the .deb depends on" have dpkg-shlibdeps
}

need_for_test() {
    need_for_quick
    need_for_dist
    need git "makes clones of which a test asks for the commit" have git
    need groff-base "reads the manual pages" have groff
    need python3 "runs the official OpenAI and Stripe SDKs beside the gateway" have python3
    need python3-venv "gives each SDK a folder of its own" python3 -c 'import ensurepip, venv'
    need nodejs "tests the widgets of web/" have node
    need npm "installs what the browser tests load" have npm
    need chromium "shows the screens to the browser tests" have chromium
    need chromium-driver "drives it" have chromedriver
    need shellcheck "checks the scripts" have shellcheck
    need lua-check "checks the ledger's scripts in Redis" have luacheck
    need util-linux "limits a gateway's file size and takes root's rights from it" have setpriv
    need pgbouncer "stands between gateways and Postgres in a test" have_pgbouncer
    need libfaketime "moves the clock under a running gateway" ls /usr/lib/*/faketime/libfaketimeMT.so.1
    need e2fsprogs "makes the ledger's files immutable" have chattr
    need_for_cluster
}

need_for_screenshots() {
    need pngquant "makes the README's pictures small" have pngquant
}

# The servers are private ones: on free ports, in temporary folders.
need_for_cluster() {
    need redis-server "a private one decides over the holds of a shared ledger" have_any redis-server valkey-server
    need postgresql "a private one remembers a shared ledger" have_postgres
    need curl "asks the gateways, as the lines that they print do" have curl
}

need_for_bench() {
    need wrk "the load generator" have wrk
    need nghttp2-client "the load generator for HTTP/2" have h2load
    need python3 "opens idle connections" have python3
    need openssl "signs the benched token" have openssl
    need util-linux "pins each process to its core" have taskset
    need_for_cluster
    # The peer that Farebox on Redis is compared with.
    need nginx "the peer: a proxy" have_nginx
    need libnginx-mod-http-lua "the peer's Lua" dpkg -s libnginx-mod-http-lua
    need lua-nginx-redis "the peer's Redis client" dpkg -s lua-nginx-redis
}

check_rust() {
    have cargo || die "Rust is missing: install it with rustup, or from your system if that has 1.94 or newer"
    if [[ $1 != test ]]; then return; fi
    local component
    for component in fmt clippy; do
        if cargo "$component" --version >/dev/null 2>&1; then continue; fi
        have rustup || die "cargo $component is missing: install your system's rustfmt and clippy"
        say "adding cargo $component to the Rust toolchain: \`make test\` runs it"
        rustup component add "${component/fmt/rustfmt}"
    done
}

install_packages() {
    if ((${#packages[@]} == 0)); then return; fi
    say "missing here:"
    printf '  %s\n' "${reasons[@]}"
    have apt-get || die "no apt-get on this system: install the above with its own package manager, then run this again"
    local as_root=()
    if ((EUID != 0)); then
        have sudo || die "not root, and no sudo: run as root: apt-get install ${packages[*]}"
        as_root=(sudo)
    fi
    say "installing with apt-get: ${packages[*]}"
    "${as_root[@]}" apt-get update -qq
    keep_services_stopped
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

# Packages with a service start it: Redis, Postgres or nginx would listen on this machine from then
# on, and nobody asked for that. policy-rc.d is Debian's way to say no; ours goes after the install.
keep_services_stopped() {
    local policy=/usr/sbin/policy-rc.d
    if [[ -e $policy ]]; then return; fi
    say "services of these packages are not started now (what runs already goes on)"
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    # shellcheck disable=SC2064 # as it is now
    trap "${as_root[*]} rm -f $policy" EXIT
}

install_cargo_tool() { # NAME VERSION WHY
    if cargo "${1#cargo-}" --version >/dev/null 2>&1; then return; fi
    say "building $1 $2 (some minutes, once): $3"
    cargo install --locked --version "$2" "$1"
}

# The program alone, out of Debian's package: installing that would also start a Prometheus.
unpack_promtool() {
    local promtool=${CARGO_TARGET_DIR:-target}/tools/promtool
    if "$promtool" --version >/dev/null 2>&1; then return; fi
    mkdir -p "${promtool%/*}"
    if have promtool; then
        ln -sf "$(command -v promtool)" "$promtool"
        return
    fi
    have apt-get || die "promtool is missing: install Prometheus' tools: they test the rules and alerts"
    say "unpacking promtool from the package prometheus, which stays uninstalled: it tests the rules and alerts"
    local folder
    folder=$(mktemp -d)
    # As root, apt would otherwise download as a user that cannot write here, and say so.
    (cd "$folder" && apt-get download -qq -o APT::Sandbox::User=root prometheus) ||
        die "the package prometheus cannot be had: run apt-get update as root, then this again"
    dpkg-deb --fsys-tarfile "$folder"/prometheus_*.deb | tar -xO ./usr/bin/promtool >"$promtool"
    chmod +x "$promtool"
    rm -r "$folder"
}

what=${1:-all}
case $what in
    run) need_for_run ;;
    quick) need_for_run; need_for_quick ;;
    test) need_for_run; need_for_test ;;
    dist) need_for_run; need_for_dist ;;
    screenshots) need_for_run; need_for_test; need_for_screenshots ;;
    cluster) need_for_run; need_for_cluster ;;
    bench) need_for_run; need_for_bench ;;
    all) need_for_run; need_for_test; need_for_screenshots; need_for_bench ;;
    *) die "unknown argument $what: run, quick, test, dist, screenshots, cluster, bench or nothing" ;;
esac

install_packages
case $what in
    quick)
        check_rust run
        install_cargo_tool cargo-nextest "$nextest_version" "runs the tests, each in a process of its own"
        ;;
    test | screenshots | all)
        check_rust test
        unpack_promtool
        install_cargo_tool cargo-nextest "$nextest_version" "runs the tests, each in a process of its own"
        install_cargo_tool cargo-deny "$deny_version" "checks licences, sources and advisories of the dependencies"
        ;;
    *) check_rust run ;;
esac
say "$what: everything is here"
