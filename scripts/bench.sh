#!/usr/bin/env bash
# What Farebox costs next to a bare Pingora, measured in turns on this machine: `make bench`.
#
# The gateway has core 0 for itself; the load generator (wrk) and the canned upstream share core 1.
# Every turn is one run of wrk against one gateway: bare Pingora, Farebox strict, Farebox relaxed,
# and again, so that a machine that slows down slows all of them. All built by one cargo command,
# with one worker thread each. Farebox checks a JWT on every call, holds 5 credits, forwards, and
# captures them.
#
# A slow figure never fails. A failed answer does, and so does an account that was not charged for
# exactly the calls that were made: a bench of a gateway that drops calls measures nothing.
#
#   scripts/bench.sh                        the whole table
#   scripts/bench.sh --only bare,strict     fewer systems (bare is always the base of the ratios)
#   scripts/bench.sh --profile strict       one system under perf: where its core's time goes
#
# Environment: BENCH_ROUNDS (3), BENCH_SECONDS a turn (8), BENCH_WARMUP seconds (3),
# BENCH_CONNECTIONS ("32 128").
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rounds=${BENCH_ROUNDS:-3}
seconds=${BENCH_SECONDS:-8}
warmup=${BENCH_WARMUP:-3}
read -r -a connections <<<"${BENCH_CONNECTIONS:-32 128}"
systems=(bare strict relaxed)
profile=

readonly gateway_core=0 load_core=1
readonly funded=1000000000 price=5
readonly route=/api/ai/generate

say() { printf '%s\n' "$*" >&2; }
die() { say "bench: $*"; exit 1; }

while (($#)); do
    case $1 in
        --only) IFS=, read -r -a systems <<<"${2:?--only needs a list}"; shift 2 ;;
        --profile) profile=${2:?--profile needs bare, strict or relaxed}; systems=("$profile"); shift 2 ;;
        *) die "unknown argument $1 (the head of this file tells what there is)" ;;
    esac
done

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/bench"
work=$(mktemp -d "$(cd "$target/bench" && pwd)/run.XXXXXX") # a real disk: /tmp is memory on some systems
declare -A pids=() ports=() admin_ports=()

# Stops what this script started, and only that.
finish() {
    local pid
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    if [[ ${BENCH_KEEP:-} ]]; then say "kept: $work"; else rm -rf "$work"; fi
}
trap finish EXIT
trap 'exit 130' INT TERM

for tool in wrk curl openssl taskset awk; do
    command -v "$tool" >/dev/null || die "$tool is missing; scripts/setup.sh bench installs it"
done
(($(nproc) >= 2)) || die "needs two cores: one for the gateway, one for the load"

# --- build ------------------------------------------------------------------------------------

say "Building (release: fat LTO, some minutes the first time)"
cargo build --release --bin farebox --example bare_pingora --example canned_upstream >&2

# --- start ------------------------------------------------------------------------------------

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

declare -A taken=()
# Sets `port` to one where nobody listens.
free_port() {
    while port=$((20000 + RANDOM % 10000)); [[ ${taken[$port]:-} ]] || answers "$port"; do :; done
    taken[$port]=1
}

# start NAME CORE COMMAND…: in the background, pinned, its output in the work folder.
start() {
    local name=$1 core=$2
    shift 2
    taskset -c "$core" "$@" >"$work/$name.log" 2>&1 &
    pids[$name]=$!
}

await_port() { # NAME PORT
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        kill -0 "${pids[$1]}" 2>/dev/null || break
        if answers "$2"; then return; fi
        sleep 0.1
    done
    tail -n 20 "$work/$1.log" >&2
    die "$1 did not start (its last lines are above)"
}

base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

mint_token() { # an HS256 JWT for the account `bench`, good for a day
    local head body
    head=$(printf '{"alg":"HS256","typ":"JWT"}' | base64url)
    body=$(printf '{"sub":"bench","exp":%d}' $(($(date +%s) + 86400)) | base64url)
    printf '%s.%s.%s' "$head" "$body" \
        "$(printf '%s.%s' "$head" "$body" | openssl dgst -sha256 -hmac "$BENCH_JWT_SECRET" -binary | base64url)"
}

write_config() { # strict|relaxed
    cat >"$work/$1.toml" <<TOML
[server]
listen = "127.0.0.1:${ports[$1]}"
admin = "127.0.0.1:${admin_ports[$1]}"
admin_token = "\${BENCH_ADMIN_TOKEN}"
threads = 1

[ledger]
backend = "embedded"
path = "$work/$1.db"
durability = "$1"

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
credits = $price
TOML
}

call() { # SYSTEM: one paid call, its status
    curl -sS -o "$work/answer" -w '%{http_code}' -X POST "http://127.0.0.1:${ports[$1]}$route" \
        -H "authorization: Bearer $2" -H 'content-type: application/json' -d '{}'
}

# member NAME JSON: a number out of a flat object.
member() { sed -n "s/.*\"$1\":\(-\{0,1\}[0-9.]*\).*/\1/p" <<<"$2"; }

start_farebox() { # strict|relaxed
    free_port; ports[$1]=$port
    free_port; admin_ports[$1]=$port
    write_config "$1"
    start "$1" "$gateway_core" "$target/release/farebox" serve --config "$work/$1.toml"
    await_port "$1" "${ports[$1]}"
    await_port "$1" "${admin_ports[$1]}"
    curl -sS --fail-with-body -o "$work/answer" -X POST \
        "http://127.0.0.1:${admin_ports[$1]}/admin/accounts/bench/grants" \
        -H "authorization: Bearer $BENCH_ADMIN_TOKEN" -H 'content-type: application/json' \
        -d "{\"credits\":$funded,\"id\":\"bench\",\"reason\":\"bench\"}" ||
        die "$1: the account could not be funded: $(cat "$work/answer")"
    # What is measured must be the thing: who has no token is turned away, who has one pays.
    [[ $(call "$1" nobody) == 401 ]] || die "$1 let a call without a valid token through"
    [[ $(call "$1" "$BENCH_TOKEN") == 200 ]] || die "$1 refused a paid call: $(cat "$work/answer")"
    calls[$1]=1
}

BENCH_JWT_SECRET=$(openssl rand -hex 32)
BENCH_ADMIN_TOKEN=$(openssl rand -hex 32)
export BENCH_JWT_SECRET BENCH_ADMIN_TOKEN
BENCH_TOKEN=$(mint_token)
export BENCH_TOKEN
declare -A calls=() turns=()

free_port; upstream_port=$port
start upstream "$load_core" "$target/release/examples/canned_upstream" "127.0.0.1:$upstream_port"
await_port upstream "$upstream_port"

for system in "${systems[@]}"; do
    case $system in
        bare)
            free_port; ports[bare]=$port
            start bare "$gateway_core" "$target/release/examples/bare_pingora" \
                "127.0.0.1:${ports[bare]}" "127.0.0.1:$upstream_port" 1
            await_port bare "${ports[bare]}"
            [[ $(call bare "$BENCH_TOKEN") == 200 ]] || die "the bare proxy does not forward"
            ;;
        strict | relaxed) start_farebox "$system" ;;
        *) die "unknown system $system: bare, strict or relaxed" ;;
    esac
done

# --- measure ----------------------------------------------------------------------------------

tick_us=$((1000000 / $(getconf CLK_TCK)))
cpu_us() { # user and system time of a process so far, all its threads
    local stat
    stat=$(<"/proc/$1/stat")
    read -r -a stat <<<"${stat##*) }" # past the name, which may hold anything
    echo $(((stat[11] + stat[12]) * tick_us))
}

# turn SYSTEM CONNECTIONS SECONDS: sets requests_per_second, cpu, p50, p99.
turn() {
    local system=$1 conns=$2 before after line requests duration bad_status broken
    before=$(cpu_us "${pids[$system]}")
    taskset -c "$load_core" wrk -t1 -c"$conns" -d"${3}s" --timeout 10s --latency -s scripts/bench.lua \
        "http://127.0.0.1:${ports[$system]}$route" >"$work/wrk.txt" || die "wrk failed: $(cat "$work/wrk.txt")"
    after=$(cpu_us "${pids[$system]}")
    line=$(grep '^RESULT ' "$work/wrk.txt") || die "wrk reported nothing: $(cat "$work/wrk.txt")"
    read -r _ requests duration p50 p99 bad_status broken <<<"$line"
    if ((bad_status > 0 || broken > 0 || requests == 0)); then
        cat "$work/wrk.txt" >&2
        tail -n 5 "$work/$system.log" >&2
        die "INVALID: $system at $conns connections: $bad_status answers were not 2xx, $broken connections failed, $requests answers"
    fi
    calls[$system]=$((${calls[$system]:-0} + requests))
    turns[$system]=$((${turns[$system]:-0} + conns))
    requests_per_second=$(awk -v n="$requests" -v us="$duration" 'BEGIN { printf "%.0f", n / us * 1e6 }')
    cpu=$(awk -v us=$((after - before)) -v n="$requests" 'BEGIN { printf "%.2f", us / n }')
}

# Every answered call was charged once, and nothing else but what was still under way when wrk hung up.
check_charges() { # strict|relaxed
    local answer balance held charged tries
    for ((tries = 0; tries < 100; tries++)); do
        answer=$(curl -sS "http://127.0.0.1:${ports[$1]}/credits/balance" -H "authorization: Bearer $BENCH_TOKEN")
        balance=$(member balance "$answer")
        held=$(member held "$answer")
        if [[ $held == 0 ]]; then break; fi
        sleep 0.1
    done
    [[ $held == 0 ]] || die "INVALID: $1 still holds credits ten seconds after the last call: $answer"
    charged=$(((funded - balance) / price))
    say "$1: ${calls[$1]} calls answered, $charged charged (up to ${turns[$1]} were under way when a turn ended)"
    ((charged >= calls[$1] && charged <= calls[$1] + turns[$1])) || die "INVALID: $1 did not charge for the calls it served"
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

for conns in "${connections[@]}"; do
    for system in "${systems[@]}"; do
        say "Warming up: $system, $conns connections, $warmup s"
        turn "$system" "$conns" "$warmup"
    done
    for ((round = 1; round <= rounds; round++)); do
        # Each round begins with another one, so that none always has the same place in it.
        first=$(((round - 1) % ${#systems[@]}))
        for system in "${systems[@]:first}" "${systems[@]:0:first}"; do
            sleep 1 # lets the one before settle what it still holds, off the next one's core time
            turn "$system" "$conns" "$seconds"
            say "round $round/$rounds, $conns connections: $system $requests_per_second requests/s, $cpu µs, p50 $p50 µs, p99 $p99 µs"
            printf '%s %s %s %s %s %s %s\n' "$conns" "$system" "$round" "$requests_per_second" "$cpu" "$p50" "$p99" >>"$work/turns"
        done
    done
done
for system in "${systems[@]}"; do
    if [[ $system != bare ]]; then check_charges "$system"; fi
done

# --- report -----------------------------------------------------------------------------------

median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) { m = int((NR + 1) / 2); print NR % 2 ? v[m] : (v[m] + v[m + 1]) / 2 } }'; }
column() { awk -v c="$1" -v s="$2" -v f="$3" '$1 == c && $2 == s { print $f }' "$work/turns"; }
# The ratio is taken round by round, so that both halves saw the same machine, and then its median.
ratio() {
    awk -v c="$1" -v s="$2" -v f="$3" '
        $1 == c && $2 == "bare" { base[$3] = $f }
        $1 == c && $2 == s { mine[$3] = $f }
        END { for (r in mine) if (base[r] > 0) printf "%.3f\n", mine[r] / base[r] }' "$work/turns" | median
}
fixed() { awk -v x="${1:-}" -v d="$2" 'BEGIN { if (x == "") print "–"; else printf "%.*f", d, x }'; }
milliseconds() { awk -v us="$1" 'BEGIN { printf "%.2f", us / 1000 }'; }

declare -A names=([bare]="bare Pingora" [strict]="Farebox, strict" [relaxed]="Farebox, relaxed")
echo
echo "| connections | system | requests/s | of bare | CPU µs/request | of bare | p50 ms | p99 ms |"
echo "|---|---|---|---|---|---|---|---|"
for conns in "${connections[@]}"; do
    for system in "${systems[@]}"; do
        echo "| $conns | ${names[$system]} | $(fixed "$(column "$conns" "$system" 4 | median)" 0)" \
            "| $(fixed "$(ratio "$conns" "$system" 4)" 2)" \
            "| $(fixed "$(column "$conns" "$system" 5 | median)" 1) | $(fixed "$(ratio "$conns" "$system" 5)" 2)" \
            "| $(milliseconds "$(column "$conns" "$system" 6 | median)")" \
            "| $(milliseconds "$(column "$conns" "$system" 7 | median)") |"
    done
done
echo
echo "Medians of $rounds turns of $seconds s each, in turns; ratios round by round. One gateway thread on its own core, wrk and the upstream on another."
for system in "${systems[@]}"; do
    echo "Peak memory, ${names[$system]}: $(awk '/^VmHWM/ { printf "%.0f MiB", $2 / 1024 }' "/proc/${pids[$system]}/status") after ${calls[$system]} calls"
done
echo "Machine: $(nproc) cores, $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)," \
    "$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), Linux $(uname -r)," \
    "ledger on $(stat -f -c %T "$work"); load average $(cut -d' ' -f1 /proc/loadavg)"
