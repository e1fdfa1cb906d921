#!/usr/bin/env bash
# scripts/test-env.sh COMMAND…: runs tests with TMPDIR in memory, which is removed afterwards. On a disk the tests would
# mostly wait for fsync, and none of them needs its data to outlive the machine. Where /dev/shm has no room, TMPDIR stays
# as it is.
set -euo pipefail

in_memory=

finish() {
    trap '' INT TERM
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
fi
"$@"
