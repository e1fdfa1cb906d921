#!/usr/bin/env bash
# Two gateways on one ledger, on this machine: `make run-cluster`. Starts a private Redis and a
# private Postgres in temporary folders, the demo's upstream, and two gateways; prints lines that
# work when pasted; stops all of it, and leaves nothing behind, on Ctrl-C.
#
# Environment: FAREBOX_BIN (the release build by default).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }
die() { say "run-cluster: $*"; exit 1; }

work=$(mktemp -d)
# shellcheck source=scripts/servers.sh
source scripts/servers.sh

finish() {
    trap '' INT TERM
    stop_all
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 0' INT TERM

command -v curl >/dev/null || die "curl is missing; scripts/setup.sh cluster installs it"

farebox=${FAREBOX_BIN:-}
if [[ ! $farebox ]]; then
    cargo build --profile quick --locked --bin farebox
    farebox=${CARGO_TARGET_DIR:-target}/quick/farebox
fi

# The token stays in the environment, and so out of the config file and the process list.
FAREBOX_ADMIN_TOKEN=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
export FAREBOX_ADMIN_TOKEN

write_config() { # NAME PUBLIC ADMIN
    cat >"$work/$1.toml" <<TOML
[server]
listen = "127.0.0.1:$2"
admin = "127.0.0.1:$3"
admin_token = "\${FAREBOX_ADMIN_TOKEN}"
shutdown_timeout = "5s"

[ledger]
backend = "redis"
redis_url = "redis://127.0.0.1:$redis_port"
postgres_url = "$postgres_url/farebox"
postgres_schema = "farebox"
durability = "strict"

[[upstreams]]
name = "demo"
url = "http://127.0.0.1:$upstream_port"

[[routes]]
path = "/v1/chat/completions"
methods = ["POST"]
upstream = "demo"
credits = 5
cost = "0.04 EUR"

[[routes]]
path = "/api/ai/generate"
methods = ["POST"]
upstream = "demo"
credits = 5
cost = "0.04 EUR"

[[packs]]
id = "pack-500"
name = "Pack 500"
credits = 500
price = "79.00 EUR"
best_value = true
TOML
}

start_gateway() { # NAME PUBLIC ADMIN
    write_config "$@"
    start "$1" "$farebox" serve --config "$work/$1.toml"
    await_port "$1" "$2"
    await_port "$1" "$3"
    await_ready "$1" "$3"
}

await_key() { # NAME PUBLIC
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        if curl -fsS -m 5 -o /dev/null "http://127.0.0.1:$2/credits/balance" \
            -H "authorization: Bearer $key" 2>"$work/curl.log"; then return; fi
        kill -0 "${pids[$1]}" 2>/dev/null || die "$1 ended: $(tail -n 5 "$work/$1.log")"
        sleep 0.1
    done
    die "$1 does not know the new key: $(cat "$work/curl.log") $(tail -n 5 "$work/$1.log")"
}

start_cluster_redis() {
    start_redis redis "$redis_port"
    echo "${pids[redis]}" >"$work/redis.pid"
}

free_port; redis_port=$port
free_port; postgres_port=$port
free_port; upstream_port=$port
free_port; public_a=$port
free_port; admin_a=$port
free_port; public_b=$port
free_port; admin_b=$port

# In the background, out of reach of the terminal's Ctrl-C: this script ends them in order.
set -m
start_cluster_redis
start_postgres "$postgres_port"
sql postgres 'CREATE DATABASE farebox'
start upstream "$farebox" demo --upstream-only "127.0.0.1:$upstream_port"
await_port upstream "$upstream_port"
start_gateway gateway-a "$public_a" "$admin_a"
start_gateway gateway-b "$public_b" "$admin_b"

"$farebox" grant demo 50 --id demo --config "$work/gateway-a.toml" >/dev/null
key=$("$farebox" key create demo --name demo --config "$work/gateway-a.toml" 2>"$work/key.log" | grep -o 'fb_[A-Za-z0-9_-]*')
# The command made it as a gateway of its own; the two hear of it within two seconds.
await_key gateway-a "$public_a"
await_key gateway-b "$public_b"

cat <<TEXT
Farebox: two gateways on one ledger, gone when this stops (Ctrl-C).

  gateway a:   http://127.0.0.1:$public_a  (admin http://127.0.0.1:$admin_a)
  gateway b:   http://127.0.0.1:$public_b  (admin http://127.0.0.1:$admin_b)
  redis:       redis://127.0.0.1:$redis_port
  postgres:    $postgres_url/farebox
  configs and logs: $work
  account: demo, with 50 credits
  api key: $key

Paste these into another terminal:

  # A paid call to each: five credits. The second knows of the first: x-credits-remaining.
  curl -i http://127.0.0.1:$public_a/v1/chat/completions -H 'authorization: Bearer $key' -H 'content-type: application/json' -d '{"model":"farebox-demo","messages":[{"role":"user","content":"hello"}]}'
  curl -i http://127.0.0.1:$public_b/v1/chat/completions -H 'authorization: Bearer $key' -H 'content-type: application/json' -d '{"model":"farebox-demo","messages":[{"role":"user","content":"hello"}]}'

  # The balance, and the lines that moved it, from the other one.
  curl http://127.0.0.1:$public_b/credits/balance -H 'authorization: Bearer $key'
  curl http://127.0.0.1:$public_b/credits/transactions -H 'authorization: Bearer $key'

  # Both at once, until the credits are gone: 402 from both.
  for i in \$(seq 6); do for port in $public_a $public_b; do curl -s -o /dev/null -w '%{http_code}\n' -X POST http://127.0.0.1:\$port/api/ai/generate -H 'authorization: Bearer $key'; done; done

  # Be the operator: 20 more, through one; then look, through the other.
  curl http://127.0.0.1:$admin_a/admin/accounts/demo/grants -H 'authorization: Bearer $FAREBOX_ADMIN_TOKEN' -d '{"credits":20,"id":"gift-1","reason":"for trying it out"}'
  curl http://127.0.0.1:$admin_b/admin/reconcile -H 'authorization: Bearer $FAREBOX_ADMIN_TOKEN'

  # Kill Redis, which keeps nothing on disk here. It is started again, empty, three seconds later:
  # calls are 503 for a while, then served again, and no debit is lost.
  kill -KILL \$(cat $work/redis.pid)
TEXT

# Until something ends that nobody asked to, or Ctrl-C.
while wait -n "${pids[redis]}" "${pids[gateway-a]}" "${pids[gateway-b]}" 2>/dev/null || true; do
    kill -0 "${pids[redis]}" 2>/dev/null && die "a gateway ended: $(tail -n 5 "$work"/gateway-?.log)"
    say "Redis is gone; an empty one comes in three seconds"
    sleep 3
    start_cluster_redis
    say "Redis is back"
done
