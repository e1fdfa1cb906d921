#!/usr/bin/env bash
# The cost of Farebox next to a bare Pingora, and next to nginx with Lua and Redis, measured in turns
# on this machine: `make bench`.
#
# The gateway has core 0 for itself; the load generator (wrk), the canned upstream, Redis and
# Postgres share core 1. Every turn is one run of wrk against one system, and then the next, so that
# a machine that slows down slows all of them. All built by one cargo command, with one worker
# thread each. Farebox checks a JWT on every call, holds 5 credits, forwards, and captures them.
#
#   bare            a bare Pingora: no ledger, no identity
#   free            Farebox on a free route: identity, no hold
#   strict          Farebox on its embedded ledger, each hold on disk before its call is forwarded
#   relaxed         the same, written within 25 ms
#   no-keys         the same with `[idempotency]` turned off; only where it is named
#   redis-strict    Farebox on Redis and Postgres, each hold committed in Postgres before its call
#   redis-relaxed   the same, synced behind
#   redis-strict-N, redis-relaxed-N
#                   N gateways on one such ledger, sharing the gateway's core and the load
#   peer            nginx + Lua, one debit in Redis a call: no identity, nothing given back or synced
#
# Each Redis is a private one of its own, with nothing on disk; Postgres syncs to disk as it does in
# production.
#
# After the table of calls come the further rows of scripts/bench-rows.sh: one connection, 1 024 connections,
# streams, large bodies, HTTP/2, the memory of idle connections, and calls that are priced by usage beside calls with a
# fixed price.
#
# A slow figure never fails. A failed answer does, and so does an account that was not charged for
# exactly the calls that were made: a bench of a gateway that drops calls measures nothing.
#
#   scripts/bench.sh                        the whole table
#   scripts/bench.sh --only bare,strict     fewer systems (bare is always the base of the ratios)
#   scripts/bench.sh --rows calls,streams   fewer tables (calls,one,many,streams,bodies,http2,idle,metered)
#   scripts/bench.sh --rows metered         the cost of a price by usage alone (6 min)
#   scripts/bench.sh --profile strict       one system under perf: where its core's time goes
#   scripts/bench.sh --count bare,strict    system calls and instructions a request, which a busy machine does not change
#
# Environment: BENCH_ROUNDS (3), BENCH_SECONDS a turn (8), BENCH_WARMUP seconds (3),
# BENCH_CONNECTIONS ("32 128"), BENCH_ROW_SECONDS a turn of the further rows (5), BENCH_BUILD (release; another
# profile of cargo, such as dev, tries the script and measures nothing).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rounds=${BENCH_ROUNDS:-3}
seconds=${BENCH_SECONDS:-8}
warmup=${BENCH_WARMUP:-3}
build=${BENCH_BUILD:-release}
read -r -a connections <<<"${BENCH_CONNECTIONS:-32 128}"
systems=(bare free strict relaxed redis-strict redis-strict-2 redis-strict-4 redis-relaxed redis-relaxed-2 redis-relaxed-4 peer)
rows=(calls one many streams bodies http2 idle metered)
profile=
count=

readonly gateway_core=0 load_core=1
readonly funded=1000000000 price=5
readonly route=/api/ai/generate metered_route=/v1/chat/completions
path=$route # the path that wrk asks for

say() { printf '%s\n' "$*" >&2; }
die() { say "bench: $*"; exit 1; }

while (($#)); do
    case $1 in
        --only) IFS=, read -r -a systems <<<"${2:?--only needs a list}"; shift 2 ;;
        --rows) IFS=, read -r -a rows <<<"${2:?--rows needs a list}"; shift 2 ;;
        --profile) profile=${2:?--profile needs a system}; systems=("$profile"); shift 2 ;;
        --count) count=1; IFS=, read -r -a systems <<<"${2:?--count needs a list}"; shift 2 ;;
        *) die "unknown argument $1 (the head of this file tells what there is)" ;;
    esac
done

target=${CARGO_TARGET_DIR:-target}
built=$target/${build/#dev/debug}
mkdir -p "$target/bench"
work=$(mktemp -d "$(cd "$target/bench" && pwd)/run.XXXXXX") # a real disk: /tmp is memory on some systems
declare -A ports=() admin_ports=()
# shellcheck source=scripts/servers.sh
source scripts/servers.sh
# shellcheck source=scripts/bench-rows.sh
source scripts/bench-rows.sh
# shellcheck source=scripts/bench-count.sh
source scripts/bench-count.sh

# Stops what this script started, and only that.
finish() {
    stop_all
    if [[ ${BENCH_KEEP:-} ]]; then say "kept: $work"; else rm -rf "$work"; fi
}
trap finish EXIT
trap 'exit 130' INT TERM

for tool in wrk curl openssl taskset awk; do
    command -v "$tool" >/dev/null || die "$tool is missing; scripts/setup.sh bench installs it"
done
(($(nproc) >= 2)) || die "needs two cores: one for the gateway, one for the load"

# --- build ------------------------------------------------------------------------------------

say "Building ($build; a release has fat LTO, some minutes the first time)"
cargo build --profile "$build" --bin farebox --example bare_pingora --example canned_upstream \
    --example stream_client >&2

# --- start ------------------------------------------------------------------------------------

start_on() { # CORE NAME COMMAND…
    local core=$1 name=$2
    shift 2
    start "$name" taskset -c "$core" "$@"
}

base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

mint_token() { # an HS256 JWT for the account `bench`, good for a day
    local head body
    head=$(printf '{"alg":"HS256","typ":"JWT"}' | base64url)
    body=$(printf '{"sub":"bench","exp":%d}' $(($(date +%s) + 86400)) | base64url)
    printf '%s.%s.%s' "$head" "$body" \
        "$(printf '%s.%s' "$head" "$body" | openssl dgst -sha256 -hmac "$BENCH_JWT_SECRET" -binary | base64url)"
}

write_config() { # SYSTEM MORE_OF_SERVER, its ledger's lines on stdin
    local credits=$price keys=true
    if [[ $1 == no-keys ]]; then keys=false; fi
    if [[ $1 == free ]]; then credits=0; fi
    cat >"$work/$1.toml" <<TOML
[server]
listen = "127.0.0.1:${ports[$1]}"
admin = "127.0.0.1:${admin_ports[$1]}"
admin_token = "\${BENCH_ADMIN_TOKEN}"
threads = 1
$2

[ledger]
$(cat)

[idempotency]
enabled = $keys

[[auth.jwt]]
algorithms = ["HS256"]
secret = "\${BENCH_JWT_SECRET}"
account_claim = "sub"

[[upstreams]]
name = "canned"
url = "http://127.0.0.1:$upstream_port"

[[routes]]
path = "$route"
methods = ["POST"]
upstream = "canned"
credits = $credits

[[routes]]
path = "$route/{more}"
methods = ["POST"]
upstream = "canned"
credits = $credits

[[routes]]
path = "$metered_route"
methods = ["POST"]
upstream = "canned"
meter = "openai"
price = "models"

[[routes]]
path = "$metered_route/{more}"
methods = ["POST"]
upstream = "canned"
meter = "openai"
price = "models"

# The canned answers report 9 tokens of input and 2 of output: such a call costs 5 credits, too.
[[models]]
match = "canned"
input = 500000
output = 250000
TOML
}

call() { # SYSTEM: one paid call, its status
    curl -sS -o "$work/answer" -w '%{http_code}' -X POST "http://127.0.0.1:${ports[$1]}$route" \
        -H "authorization: Bearer $2" -H 'content-type: application/json' -d '{}'
}

# member NAME JSON: a number out of a flat object.
member() { sed -n "s/.*\"$1\":\(-\{0,1\}[0-9.]*\).*/\1/p" <<<"$2"; }

embedded_ledger() { # SYSTEM
    local durability=relaxed
    if [[ $1 == strict ]]; then durability=strict; fi
    printf 'backend = "embedded"\npath = "%s"\ndurability = "%s"\n' "$work/$1.db" "$durability"
}

# The Redis and the database of a system; started when they are first asked for.
declare -A redis_of=() redis_ports=()
start_redis_for() { # SYSTEM
    local name=redis-for-$1
    free_port; redis_ports[$1]=$port
    start_redis "$name" "$port" taskset -c "$load_core"
    redis_of[$1]=$name
}

start_shared_ledger() { # SYSTEM
    # `--count` starts a gateway twice, on one ledger.
    if [[ ${redis_of[$1]:-} ]]; then return; fi
    if [[ ! ${pids[postgres]:-} ]]; then
        free_port
        start_postgres "$port" taskset -c "$load_core"
    fi
    sql postgres "CREATE DATABASE \"$1\""
    start_redis_for "$1"
}

# The one account of the bench takes 140 000 credits a second, more than the default `unsynced_cap`.
shared_ledger() { # SYSTEM strict|relaxed
    printf 'backend = "redis"\nredis_url = "redis://127.0.0.1:%s"\npostgres_url = "%s/%s"\ndurability = "%s"\n' \
        "${redis_ports[$1]}" "$postgres_url" "$1" "$2"
    if [[ $2 == relaxed ]]; then echo 'unsynced_cap = 1000000'; fi
}

# The command that the next gateway runs under.
under=()

start_gateway() { # NAME MORE_OF_SERVER, its ledger's lines on stdin
    free_port; ports[$1]=$port
    free_port; admin_ports[$1]=$port
    write_config "$1" "${2:-}"
    start_on "$gateway_core" "$1" "${under[@]}" "$built/farebox" serve --config "$work/$1.toml"
    await_port "$1" "${ports[$1]}"
    await_port "$1" "${admin_ports[$1]}"
    await_ready "$1" "${admin_ports[$1]}"
}

grant() { # SYSTEM: gives the account its credits
    curl -sS --fail-with-body -o "$work/answer" -X POST \
        "http://127.0.0.1:${admin_ports[$1]}/admin/accounts/bench/grants" \
        -H "authorization: Bearer $BENCH_ADMIN_TOKEN" -H 'content-type: application/json' \
        -d "{\"credits\":$funded,\"id\":\"bench\",\"reason\":\"bench\"}" ||
        die "$1: the account could not be funded: $(cat "$work/answer")"
}

# Funds the account, and checks that the benched thing is the real one: a call without a valid token is
# refused, a call with one is paid.
fund() { # SYSTEM
    grant "$1"
    [[ $(call "$1" nobody) == 401 ]] || die "$1 let a call without a valid token through"
    [[ $(call "$1" "$BENCH_TOKEN") == 200 ]] || die "$1 refused a paid call: $(cat "$work/answer")"
    calls[$1]=1
}

start_peer() {
    # Debian keeps it off the PATH of those who are not root.
    local PATH=$PATH:/usr/sbin
    command -v nginx >/dev/null || die "nginx is missing; scripts/setup.sh bench installs it"
    start_redis_for peer
    free_port; ports[peer]=$port
    sed -e "s|@WORK@|$work|g; s|@PORT@|$port|g; s|@UPSTREAM_PORT@|$upstream_port|g" \
        -e "s|@REDIS_PORT@|${redis_ports[peer]}|g; s|@ROUTE@|$route|g; s|@PRICE@|$price|g" \
        benches/peer/nginx.conf >"$work/nginx.conf"
    start_on "$gateway_core" peer nginx -e "$work/nginx-error.log" -c "$work/nginx.conf"
    await_port peer "$port"
    redis peer "SET credits:bench $((price))" >/dev/null
    [[ $(call peer none) == 200 ]] || die "the peer does not forward: $(cat "$work/nginx-error.log")"
    [[ $(call peer none) == 402 ]] || die "the peer forwards what nobody paid for"
    redis peer "SET credits:bench $funded" >/dev/null
}

# redis SYSTEM "COMMAND": asks a system's Redis, and prints the first line of its answer.
redis() {
    local line
    exec 3<>"/dev/tcp/127.0.0.1/${redis_ports[$1]}"
    printf '%s\r\n' "$2" >&3
    read -r line <&3
    exec 3<&-
    line=${line//[$'\r:+']/}
    echo "$line"
}

BENCH_JWT_SECRET=$(openssl rand -hex 32)
BENCH_ADMIN_TOKEN=$(openssl rand -hex 32)
export BENCH_JWT_SECRET BENCH_ADMIN_TOKEN
BENCH_TOKEN=$(mint_token)
export BENCH_TOKEN
declare -A calls=() turns=()

free_port; upstream_port=$port
start_on "$load_core" upstream "$built/examples/canned_upstream" "127.0.0.1:$upstream_port"
await_port upstream "$upstream_port"
ports[upstream]=$upstream_port

# The names of a system's gateways: of `redis-strict-4` itself, then `redis-strict-4-2` and so on.
gateways_of() { # SYSTEM
    local n
    echo "$1"
    if [[ $1 == redis-*-[2-9] ]]; then
        for ((n = 2; n <= ${1##*-}; n++)); do echo "$1-$n"; done
    fi
}

start_system() { # SYSTEM
    local system=$1
    case $system in
        bare)
            free_port; ports[bare]=$port
            start_on "$gateway_core" bare "${under[@]}" "$built/examples/bare_pingora" \
                "127.0.0.1:${ports[bare]}" "127.0.0.1:$upstream_port" 1
            await_port bare "${ports[bare]}"
            [[ $(call bare "$BENCH_TOKEN") == 200 ]] || die "the bare proxy does not forward"
            ;;
        strict | relaxed | free | no-keys)
            start_gateway "$system" < <(embedded_ledger "$system")
            fund "$system"
            ;;
        redis-strict | redis-relaxed | redis-strict-[2-9] | redis-relaxed-[2-9])
            local durability=${system#redis-} name
            start_shared_ledger "$system"
            for name in $(gateways_of "$system"); do
                start_gateway "$name" < <(shared_ledger "$system" "${durability%-[2-9]}")
            done
            fund "$system"
            ;;
        peer) start_peer ;;
        *) die "unknown system $system (the head of this file tells what there is)" ;;
    esac
}

for system in "${systems[@]}"; do start_system "$system"; done

# --- measure ----------------------------------------------------------------------------------

tick_us=$((1000000 / $(getconf CLK_TCK)))
cpu_us() { # user and system time of a process so far, all its threads
    local stat
    stat=$(<"/proc/$1/stat")
    read -r -a stat <<<"${stat##*) }" # past the name, which may hold anything
    echo $(((stat[11] + stat[12]) * tick_us))
}

cpu_of() { # NAME…: of processes together
    local name sum=0
    for name in "$@"; do sum=$((sum + $(cpu_us "${pids[$name]}"))); done
    echo "$sum"
}

# Postgres with all its processes, those that have ended too.
cpu_of_postgres() {
    local pid=${pids[postgres]} child one stat sum
    stat=$(<"/proc/$pid/stat")
    read -r -a stat <<<"${stat##*) }"
    sum=$(((stat[11] + stat[12] + stat[13] + stat[14]) * tick_us))
    for child in $(<"/proc/$pid/task/$pid/children"); do
        one=$(cpu_us "$child" 2>/dev/null) || one=0 # it may have ended just now
        sum=$((sum + one))
    done
    echo "$sum"
}

# Notes how far Postgres is behind, five times a second, until it is ended. Without curl: it would
# take its share of the load's core.
sample_lag() { # SYSTEM
    local line
    while sleep 0.2; do
        exec 3<>"/dev/tcp/127.0.0.1/${admin_ports[$1]}"
        printf 'GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n' >&3
        while read -r line <&3; do
            if [[ $line == farebox_ledger_sync_lag_seconds\ * ]]; then echo "${line##* }"; fi
        done
        exec 3<&-
    done
}

# One run of wrk; sets `pids[wrk-NAME]`.
start_wrk() { # NAME CONNECTIONS SECONDS
    start_on "$load_core" "wrk-$1" wrk -t1 -c"$2" -d"${3}s" --timeout 10s --latency \
        -s scripts/bench.lua "http://127.0.0.1:${ports[$1]}$path"
}

# turn SYSTEM CONNECTIONS SECONDS: sets turn_requests, requests_per_second, cpu, redis_cpu, postgres_cpu, p50, p99.
# Several gateways share the connections, and the slowest one's latency counts.
turn() {
    local system=$1 conns=$2 before redis_before='' postgres_before='' name line requests=0 duration=0 sampler=''
    local -a gateways one
    readarray -t gateways < <(gateways_of "$system")
    p50=0 p99=0 redis_cpu=- postgres_cpu=-
    before=$(cpu_of "${gateways[@]}")
    if [[ ${redis_of[$system]:-} ]]; then redis_before=$(cpu_of "${redis_of[$system]}"); fi
    if [[ $system == redis-* ]]; then postgres_before=$(cpu_of_postgres); fi
    for name in "${gateways[@]}"; do start_wrk "$name" $((conns / ${#gateways[@]})) "$3"; done
    if [[ $system == redis-* ]]; then
        sample_lag "$system" >>"$work/lag-$system-$conns" 2>/dev/null &
        sampler=$!
    fi
    for name in "${gateways[@]}"; do
        wait "${pids[wrk-$name]}" || die "wrk failed: $(cat "$work/wrk-$name.log")"
        unset "pids[wrk-$name]"
    done
    if [[ $sampler ]]; then
        kill "$sampler"
        wait "$sampler" || true
    fi
    cpu=$(($(cpu_of "${gateways[@]}") - before))
    if [[ $redis_before ]]; then redis_cpu=$(($(cpu_of "${redis_of[$system]}") - redis_before)); fi
    if [[ $postgres_before ]]; then postgres_cpu=$(($(cpu_of_postgres) - postgres_before)); fi
    for name in "${gateways[@]}"; do
        line=$(grep '^RESULT ' "$work/wrk-$name.log") || die "wrk reported nothing: $(cat "$work/wrk-$name.log")"
        read -r -a one <<<"${line#RESULT }" # requests, microseconds, p50, p99, bad statuses, broken connections
        if ((one[4] > 0 || one[5] > 0 || one[0] == 0)); then
            cat "$work/wrk-$name.log" >&2
            tail -n 5 "$work/$name.log" >&2
            die "INVALID: $name at $conns connections: ${one[4]} answers were not 2xx, ${one[5]} connections failed, ${one[0]} answers"
        fi
        requests=$((requests + one[0]))
        duration=$((one[1] > duration ? one[1] : duration))
        p50=$((one[2] > p50 ? one[2] : p50))
        p99=$((one[3] > p99 ? one[3] : p99))
    done
    turn_requests=$requests
    calls[$system]=$((${calls[$system]:-0} + requests))
    turns[$system]=$((${turns[$system]:-0} + conns))
    requests_per_second=$(per "$requests" "$duration" 0 1000000)
    cpu=$(per "$cpu" "$requests" 2)
    if [[ $redis_before ]]; then redis_cpu=$(per "$redis_cpu" "$requests" 2); fi
    if [[ $postgres_before ]]; then postgres_cpu=$(per "$postgres_cpu" "$requests" 2); fi
}

per() { awk -v a="$1" -v b="$2" -v digits="$3" -v times="${4:-1}" 'BEGIN { printf "%.*f", digits, a / b * times }'; }

# Prints the balance of the account once no credits are held any more.
farebox_balance() { # SYSTEM
    local answer held tries
    for ((tries = 0; tries < 100; tries++)); do
        answer=$(curl -sS "http://127.0.0.1:${ports[$1]}/credits/balance" -H "authorization: Bearer $BENCH_TOKEN")
        held=$(member held "$answer")
        if [[ $held == 0 ]]; then
            member balance "$answer"
            return
        fi
        sleep 0.1
    done
    die "INVALID: $1 still holds credits ten seconds after the last call: $answer"
}

# Every answered call was charged once, and nothing else but what was still under way when wrk hung up.
check_charges() { # SYSTEM
    local balance charged
    if [[ $1 == peer ]]; then
        balance=$(redis peer 'DECRBY credits:bench 0')
    else
        balance=$(farebox_balance "$1")
    fi
    charged=$(((funded - balance) / price))
    say "$1: ${calls[$1]} calls answered, $charged charged (up to ${turns[$1]:-0} were under way when a turn ended)"
    ((charged >= calls[$1] && charged <= calls[$1] + ${turns[$1]:-0})) || die "INVALID: $1 did not charge for the calls it served"
}

if [[ $profile ]]; then
    command -v perf >/dev/null || die "perf is missing (Debian: linux-perf, Ubuntu: linux-tools-generic)"
    conns=${connections[-1]}
    turn "$profile" "$conns" "$warmup"
    say "Profiling $profile at $conns connections for $seconds s"
    perf record -q -F 1999 -e cpu-clock -p "${pids[$profile]}" -o "$work/perf.data" -- sleep "$seconds" 2>"$work/perf.log" &
    pids[perf]=$!
    turn "$profile" "$conns" "$((seconds + 1))"
    wait "${pids[perf]}" || die "perf failed: $(cat "$work/perf.log")"
    unset 'pids[perf]'
    echo "$profile at $conns connections: $requests_per_second requests/s, $cpu µs CPU a request"
    perf report -i "$work/perf.data" --stdio --no-children --percent-limit 0.5 -s dso,symbol 2>/dev/null |
        sed -E -e '/^(#|$)/d' -e 's/[- ]+$//'
    exit 0
fi

measure_calls() {
    for conns in "${connections[@]}"; do
        for system in "${systems[@]}"; do
            say "Warming up: $system, $conns connections, $warmup s"
            turn "$system" "$conns" "$warmup"
            rm -f "$work/lag-$system-$conns"
        done
        for ((round = 1; round <= rounds; round++)); do
            # Each round begins with another one, so that none always has the same place in it.
            first=$(((round - 1) % ${#systems[@]}))
            for system in "${systems[@]:first}" "${systems[@]:0:first}"; do
                sleep 1 # lets the one before settle what it still holds, off the next one's core time
                turn "$system" "$conns" "$seconds"
                say "round $round/$rounds, $conns connections: $system $requests_per_second requests/s, $cpu µs, Redis $redis_cpu µs, Postgres $postgres_cpu µs, p50 $p50 µs, p99 $p99 µs"
                printf '%s %s %s %s %s %s %s %s %s\n' "$conns" "$system" "$round" "$requests_per_second" "$cpu" "$p50" "$p99" \
                    "$redis_cpu" "$postgres_cpu" >>"$work/turns"
            done
        done
    done
}

# --- report -----------------------------------------------------------------------------------

median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) { m = int((NR + 1) / 2); print NR % 2 ? v[m] : (v[m] + v[m + 1]) / 2 } }'; }
column() { awk -v c="$1" -v s="$2" -v f="$3" '$1 == c && $2 == s && $f != "-" { print $f }' "$work/turns"; }
# The ratio is taken round by round, so that both halves saw the same machine, and then its median.
ratio() {
    awk -v c="$1" -v s="$2" -v f="$3" '
        $1 == c && $2 == "bare" { base[$3] = $f }
        $1 == c && $2 == s { mine[$3] = $f }
        END { for (r in mine) if (base[r] > 0) printf "%.3f\n", mine[r] / base[r] }' "$work/turns" | median
}
fixed() { awk -v x="${1:-}" -v d="$2" 'BEGIN { if (x == "") print "–"; else printf "%.*f", d, x }'; }
milliseconds() { awk -v us="$1" 'BEGIN { printf "%.2f", us / 1000 }'; }

declare -A names=([upstream]="the upstream itself" [bare]="bare Pingora" [free]="Farebox, free route" [strict]="Farebox, strict" [relaxed]="Farebox, relaxed"
    [no-keys]="Farebox, relaxed, without keys"
    [redis-strict]="Farebox on Redis + Postgres, strict" [redis-relaxed]="Farebox on Redis + Postgres, relaxed"
    [peer]="nginx + Lua + Redis")
for count_of in 2 4; do
    for durability in strict relaxed; do
        names[redis-$durability-$count_of]="$count_of gateways on Redis + Postgres, $durability"
    done
done
# The 99th percentile of what was sampled, in milliseconds.
lag() {
    if [[ ! -s $work/lag-$2-$1 ]]; then echo –; return; fi
    sort -g "$work/lag-$2-$1" | awk '{ v[NR] = $1 } END { printf "%.0f", v[int((NR * 99 + 99) / 100)] * 1000 }'
}

report_calls() {
    echo
    echo "| connections | system | requests/s | of bare | CPU µs/request | of bare | Redis µs/request | Postgres µs/request | p50 ms | p99 ms | sync lag p99 ms |"
    echo "|---|---|---|---|---|---|---|---|---|---|---|"
    for conns in "${connections[@]}"; do
        for system in "${systems[@]}"; do
            echo "| $conns | ${names[$system]} | $(fixed "$(column "$conns" "$system" 4 | median)" 0)" \
                "| $(fixed "$(ratio "$conns" "$system" 4)" 2)" \
                "| $(fixed "$(column "$conns" "$system" 5 | median)" 1) | $(fixed "$(ratio "$conns" "$system" 5)" 2)" \
                "| $(fixed "$(column "$conns" "$system" 8 | median)" 1) | $(fixed "$(column "$conns" "$system" 9 | median)" 1)" \
                "| $(milliseconds "$(column "$conns" "$system" 6 | median)")" \
                "| $(milliseconds "$(column "$conns" "$system" 7 | median)") | $(lag "$conns" "$system") |"
        done
    done
    echo
    echo "Medians of $rounds turns of $seconds s each, in turns; ratios round by round. One gateway thread on its own core; wrk, the upstream, Redis and Postgres on another."
}

if [[ $count ]]; then
    report_count
    exit 0
fi

for row in "${rows[@]}"; do
    case $row in
        calls) measure_calls; report_calls ;;
        one | many | streams | bodies | http2 | idle | metered) "row_$row" ;;
        *) die "unknown row $row (the head of this file tells what there is)" ;;
    esac
done
for system in "${systems[@]}"; do
    if [[ $system != bare && $system != free ]]; then check_charges "$system"; fi
done

echo
for system in "${systems[@]}"; do
    for name in $(gateways_of "$system"); do
        echo "Peak memory, ${names[$system]}: $(awk '/^VmHWM/ { printf "%.0f MiB", $2 / 1024 }' "/proc/${pids[$name]}/status") after ${calls[$system]} calls"
    done
done
echo "Machine: $(nproc) cores, $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)," \
    "$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), Linux $(uname -r)," \
    "ledger on $(stat -f -c %T "$work"); load average $(cut -d' ' -f1 /proc/loadavg)"
