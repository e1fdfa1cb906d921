#!/usr/bin/env bash
# cargo-deny over the dependencies: licences, bans and sources always; advisories when the advisory
# database can be had. A finding fails. A database out of reach does not, so that a closed network
# can test, but it is said loudly; FAREBOX_REQUIRE_ADVISORIES=1 makes it fail.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo deny check licenses bans sources

if reason=$(cargo deny fetch db 2>&1); then
    cargo deny check advisories
    exit 0
fi

{
    echo "$reason"
    echo "**********************************************************************"
    echo "*  ADVISORIES WERE NOT CHECKED: the database could not be fetched    *"
    echo "*  (why: above). Known vulnerabilities and yanked versions in the    *"
    echo "*  dependencies would go unnoticed in this run. Run \`make deny\` once *"
    echo "*  where the network is open.                                        *"
    echo "**********************************************************************"
} >&2
[[ ${FAREBOX_REQUIRE_ADVISORIES:-0} != 1 ]]
