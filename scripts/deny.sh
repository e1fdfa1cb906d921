#!/usr/bin/env bash
# cargo-deny over the dependencies: licences, bans, sources and advisories. A finding fails, and so does an
# advisory database that cannot be had: without it, known vulnerabilities and yanked versions go unnoticed.
# In a closed network FAREBOX_WITHOUT_ADVISORIES=1 leaves the advisories out where they cannot be had, and
# says so; `make test` says it again at its end. Where the database can be had they are checked all the same.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly unchecked=${CARGO_TARGET_DIR:-target}/advisories-not-checked
rm -f "$unchecked"

cargo deny check licenses bans sources

if reason=$(cargo deny fetch db 2>&1); then
    cargo deny check advisories
    exit 0
fi

echo "$reason" >&2
if [[ ${FAREBOX_WITHOUT_ADVISORIES:-0} != 1 ]]; then
    {
        echo "deny: the advisory database could not be fetched (why: above), so known vulnerabilities and"
        echo "deny: yanked versions in the dependencies were not looked for. Run this where the network is"
        echo "deny: open, or set FAREBOX_WITHOUT_ADVISORIES=1 to do without in a closed one."
    } >&2
    exit 1
fi

mkdir -p "${unchecked%/*}"
cat >"$unchecked" <<'END'
**********************************************************************
*  ADVISORIES WERE NOT CHECKED: the database could not be fetched,   *
*  and FAREBOX_WITHOUT_ADVISORIES=1 says to do without. Known        *
*  vulnerabilities and yanked versions in the dependencies would go  *
*  unnoticed in this run. Run `make deny` where the network is open. *
**********************************************************************
END
cat "$unchecked" >&2
