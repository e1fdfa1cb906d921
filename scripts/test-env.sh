#!/usr/bin/env bash
# scripts/test-env.sh COMMAND…: runs tests with two things that they share, both removed afterwards:
#   FAREBOX_TEST_POSTGRES  the port and the folder of a private Postgres. Tests that need only a database of their
#                          own make it there. Tests that stop, pause or replace their server start one themselves.
#   TMPDIR                 a folder in memory. On a disk the tests would mostly wait for fsync, and none of them needs
#                          its data to outlive the machine.
# Where /dev/shm has no room, Postgres and TMPDIR stay on the disk.
set -euo pipefail

die() { printf 'test-env: %s\n' "$*" >&2; exit 1; }

work=$(mktemp -d)
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/servers.sh
source "$here/servers.sh"
in_memory=

finish() {
    trap '' INT TERM
    stop_all
    rm -rf "$work"
    if [[ $in_memory ]]; then rm -rf "$in_memory" || true; fi
}
trap finish EXIT
trap 'exit 130' INT TERM

free_kb=$(df --output=avail /dev/shm 2>/dev/null | tail -n 1) || free_kb=0
if ((${free_kb:-0} > 6 * 1024 * 1024)); then
    in_memory=$(mktemp -d /dev/shm/farebox-tests.XXXXXX)
    # Some tests run programs as other users.
    chmod 1777 "$in_memory"
    export TMPDIR=$in_memory
    postgres_home=$in_memory
fi
postgres_settings=(-c fsync=off -c full_page_writes=off -c max_connections=500 -c dynamic_shared_memory_type=mmap)

# In the background, out of reach of the terminal's Ctrl-C: this script ends it, after the tests.
set -m
# The ports are below those that tests choose.
FAREBOX_FIRST_PORT=19000 FAREBOX_PORTS=900 free_port
start_postgres "$port"
set +m
ln -s "$work/postgres.log" "$postgres_folder/postgres.log"
FAREBOX_TEST_POSTGRES="$port:$postgres_folder" "$@"
