# shellcheck shell=bash disable=SC2154,SC2034,SC2004 # scripts/bench.sh, which reads this file, shares its variables
# The further rows of `make bench`: one connection, many connections, streams, large bodies, HTTP/2, idle
# connections, and prices by usage. Each is a short table of its own. Sourced by scripts/bench.sh.

readonly row_seconds=${BENCH_ROW_SECONDS:-5}
readonly flood_streams=128

# The systems among those that run.
running() { # SYSTEM…
    local name
    for name in "$@"; do
        if [[ ${ports[$name]:-} ]]; then echo "$name"; fi
    done
}

wrk_on() { # SYSTEM CONNECTIONS PATH BODY_BYTES: sets requests_per_second, cpu, p50, p99
    BENCH_BODY_BYTES=$4
    export BENCH_BODY_BYTES
    path=$3
    turn "$1" "$2" "$row_seconds"
    path=$route
    unset BENCH_BODY_BYTES
}

# One call at a time: the time that a proxy adds to the upstream's own.
row_one() {
    local system direct_p50='' direct_p99=''
    echo
    echo "One connection, one call at a time:"
    echo
    echo "| system | requests/s | p50 µs | p99 µs | p50 added µs | p99 added µs |"
    echo "|---|---|---|---|---|---|"
    for system in $(running upstream bare relaxed strict peer); do
        wrk_on "$system" 1 "$route" 0
        if [[ $system == upstream ]]; then direct_p50=$p50 direct_p99=$p99; fi
        echo "| ${names[$system]} | $requests_per_second | $p50 | $p99 | $((p50 - direct_p50)) | $((p99 - direct_p99)) |"
    done
}

# The CPU of a call at 1 024 connections, beside the same at 32.
row_many() {
    local system few
    echo
    echo "CPU a call, in µs, at many connections:"
    echo
    echo "| system | at 32 | at 1024 | ratio |"
    echo "|---|---|---|---|"
    for system in $(running bare free relaxed strict); do
        wrk_on "$system" 32 "$route" 0
        few=$cpu
        wrk_on "$system" 1024 "$route" 0
        echo "| ${names[$system]} | $few | $cpu | $(per "$cpu" "$few" 2) |"
    done
}

# How much later than sent the events of 128 streams arrive.
row_streams() {
    local system connections=128 result
    echo
    echo "$connections streams of 100 events, 10 ms apart: delay from the upstream's write to the client, in ms:"
    echo
    echo "| system | first event p50 | p99 | other events p50 | p99 | CPU µs/event |"
    echo "|---|---|---|---|---|---|"
    for system in $(running upstream bare relaxed); do
        local before
        before=$(cpu_us "${pids[$system]}")
        result=$(taskset -c "$load_core" "$built/examples/stream_client" \
            "127.0.0.1:${ports[$system]}" "$route/stream" "$connections" "$row_seconds") ||
            die "INVALID: $system: a stream broke"
        local -a delays
        local served
        read -r -a delays <<<"${result#RESULT }"
        cpu=$(per "$(($(cpu_us "${pids[$system]}") - before))" "${delays[0]}" 2)
        served=${calls[$system]:-0}
        served=$((served + delays[0] / 100))
        calls[$system]=$served
        echo "| ${names[$system]} | $(milliseconds "${delays[1]}") | $(milliseconds "${delays[2]}")" \
            "| $(milliseconds "${delays[3]}") | $(milliseconds "${delays[4]}") | $cpu |"
    done
}

# Bodies of a megabyte, up and down.
row_bodies() {
    local system up up_cpu
    echo
    echo "Bodies of 1 MiB, 8 connections:"
    echo
    echo "| system | up MiB/s | CPU µs/MiB | down MiB/s | CPU µs/MiB |"
    echo "|---|---|---|---|---|"
    for system in $(running bare relaxed peer); do
        wrk_on "$system" 8 "$route" 1048576
        up=$requests_per_second up_cpu=$cpu
        wrk_on "$system" 8 "$route/big" 0
        echo "| ${names[$system]} | $up | $up_cpu | $requests_per_second | $cpu |"
    done
}

# Clients over HTTP/2 and TLS.
row_http2() {
    local system output line requests
    command -v h2load >/dev/null || die "h2load is missing; scripts/setup.sh bench installs it"
    openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=bench -keyout "$work/key.pem" \
        -out "$work/cert.pem" >/dev/null 2>&1
    free_port; ports[bare-tls]=$port
    start_on "$gateway_core" bare-tls "$built/examples/bare_pingora" "127.0.0.1:$port" \
        "127.0.0.1:$upstream_port" 1 "$work/cert.pem" "$work/key.pem"
    await_port bare-tls "$port"
    start_gateway relaxed-tls "tls = { cert_file = \"$work/cert.pem\", key_file = \"$work/key.pem\" }" \
        < <(printf 'path = "%s/tls.db"\ndurability = "relaxed"\n' "$work")
    grant relaxed-tls
    calls[relaxed-tls]=0 turns[relaxed-tls]=0
    printf '{"model":"canned","messages":[{"role":"user","content":"Hello"}]}' >"$work/body.json"
    echo
    echo "HTTP/2 over TLS, 32 connections with 10 streams each:"
    echo
    echo "| system | requests/s | CPU µs/request |"
    echo "|---|---|---|"
    for system in bare-tls relaxed-tls; do
        local before
        before=$(cpu_us "${pids[$system]}")
        output=$(taskset -c "$load_core" h2load -t1 -c32 -m10 -D "$row_seconds" -d "$work/body.json" \
            -H "authorization: Bearer $BENCH_TOKEN" -H 'content-type: application/json' \
            "https://127.0.0.1:${ports[$system]}$route" 2>&1) || die "h2load failed: $output"
        cpu=$(($(cpu_us "${pids[$system]}") - before))
        line=$(grep '^status codes:' <<<"$output") || die "INVALID: $system: $output"
        requests=$(sed -n 's/^status codes: \([0-9]*\) 2xx, 0 3xx, 0 4xx, 0 5xx.*/\1/p' <<<"$line")
        [[ $requests && $requests != 0 ]] || die "INVALID: $system: $line"
        echo "| ${names[${system%-tls}]} | $(per "$requests" "$row_seconds" 0) | $(per "$cpu" "$requests" 1) |"
    done
}

# Memory: idle, and for each connection that waits for its next request.
row_idle() {
    local system count=10000 before after open
    echo
    echo "Memory, idle and with $count idle connections that have each made a call:"
    echo
    echo "| system | resident MiB, no connection | resident kB a connection |"
    echo "|---|---|---|"
    for system in bare relaxed; do
        case $system in
            bare)
                free_port; ports[bare-idle]=$port
                start_on "$gateway_core" bare-idle "$built/examples/bare_pingora" \
                    "127.0.0.1:$port" "127.0.0.1:$upstream_port" 1
                await_port bare-idle "$port"
                ;;
            relaxed)
                start_gateway relaxed-idle "max_connections = 12000" \
                    < <(printf 'path = "%s/idle.db"\ndurability = "relaxed"\n' "$work")
                grant relaxed-idle
                ;;
        esac
        before=$(resident_kb "$system-idle")
        rm -f "$work/idle.log" # of the system before
        taskset -c "$load_core" python3 scripts/idle_connections.py "${ports[$system-idle]}" "$route" "$count" \
            >"$work/idle.log" 2>&1 &
        pids[idle]=$!
        until grep -q '^idle$' "$work/idle.log" 2>/dev/null; do
            kill -0 "${pids[idle]}" 2>/dev/null || die "INVALID: $system: $(cat "$work/idle.log")"
            sleep 0.2
        done
        after=$(resident_kb "$system-idle")
        # The system's limit of open files may allow a gateway fewer connections.
        open=$(find "/proc/${pids[$system-idle]}/fd" -mindepth 1 | wc -l)
        kill "${pids[idle]}"
        wait "${pids[idle]}" || true
        unset 'pids[idle]'
        echo "| ${names[$system]} | $(per "$before" 1024 1) | $(per "$((after - before))" "$open" 1) |"
    done
}

resident_kb() { awk '/^VmRSS/ { print $2 }' "/proc/${pids[$1]}/status"; }

# A price by usage beside a fixed price: the same bodies and the same answers, in turns.
row_metered() {
    local text='What does a call cost, and when is it charged? Tell me all of it, please.' messages='' system kind round
    while ((${#messages} < 3850)); do messages+="{\"role\":\"user\",\"content\":\"$text\"},"; done
    printf '{"model":"canned","messages":[%s]}' "${messages%,}" >"$work/chat.json"
    printf '{"model":"canned","stream":true,"messages":[%s]}' "${messages%,}" >"$work/chat-stream.json"
    for system in $(running relaxed strict redis-relaxed); do
        for ((round = 0; round <= rounds; round++)); do
            for kind in $(if ((round % 2)); then echo metered fixed; else echo fixed metered; fi); do
                metered_calls "$system" "$kind" "$round"
            done
        done
    done
    for ((round = 1; round <= rounds; round++)); do
        for system in $(running upstream bare relaxed); do
            for kind in $(if [[ $system == relaxed ]]; then echo fixed metered; else echo fixed; fi); do
                metered_streams "$system" "$kind" "$round"
            done
        done
    done
    for ((round = 0; round <= rounds; round++)); do
        metered_flood upstream fixed "$round"
        for system in $(running bare relaxed); do
            for kind in $(
                if [[ $system != relaxed ]]; then echo fixed
                elif ((round % 2)); then echo metered fixed
                else echo fixed metered; fi
            ); do
                metered_flood "$system" "$kind" "$round"
            done
        done
    done
    report_metered
}

# One turn of calls; round 0 warms up. Notes: system kind round CPU p50 p99.
metered_calls() { # SYSTEM fixed|metered ROUND
    export BENCH_BODY_FILE=$work/chat.json
    path=$route
    if [[ $2 == metered ]]; then path=$metered_route; fi
    turn "$1" 32 "$(if (($3)); then echo "$row_seconds"; else echo "$warmup"; fi)"
    path=$route
    unset BENCH_BODY_FILE
    if (($3)); then
        say "calls of 4 KiB, round $3/$rounds: $1, $2 price: $cpu µs, p50 $p50 µs, p99 $p99 µs"
        echo "$1 $2 $3 $cpu $p50 $p99" >>"$work/metered-calls"
    fi
}

# One turn of 128 streams, which begin one after the other. Notes: system kind round CPU, then p50 and p99 of the head,
# of the first event, and of the others.
metered_streams() { # SYSTEM fixed|metered ROUND
    local before result served=${calls[$1]:-0} of=$route
    local -a delays
    if [[ $2 == metered ]]; then of=$metered_route; fi
    before=$(cpu_us "${pids[$1]}")
    result=$(BENCH_BODY_FILE="$work/chat-stream.json" taskset -c "$load_core" "$built/examples/stream_client" \
        "127.0.0.1:${ports[$1]}" "$of/chat-stream" 128 "$row_seconds" 1000) || die "INVALID: $1: a stream broke"
    read -r -a delays <<<"${result#RESULT }"
    cpu=$(per "$(($(cpu_us "${pids[$1]}") - before))" "${delays[0]}" 2)
    served=$((served + delays[0] / 100))
    calls[$1]=$served
    say "128 streams, round $3/$rounds: $1, $2 price: $cpu µs an event, head p99 ${delays[6]} µs"
    echo "$1 $2 $3 $cpu ${delays[5]} ${delays[6]} ${delays[1]} ${delays[2]} ${delays[3]} ${delays[4]}" >>"$work/metered-streams"
}

# One turn of streams without pauses, which fill the gateway's core; round 0 warms up. A CPU that has nothing else to do
# takes more time for a chunk: it wakes up for each one, with cold caches and a low clock.
# Notes: system kind round CPU, chunks a second, and the percentage of its core.
metered_flood() { # SYSTEM fixed|metered ROUND
    local before result of=$route share
    local -a counted # chunks, streams, microseconds
    if [[ $2 == metered ]]; then of=$metered_route; fi
    before=$(cpu_us "${pids[$1]}")
    result=$(BENCH_BODY_FILE="$work/chat-stream.json" taskset -c "$load_core" "$built/examples/stream_client" \
        "127.0.0.1:${ports[$1]}" "$of/chat-flood" "$flood_streams" "$(if (($3)); then echo "$row_seconds"; else echo "$warmup"; fi)" count) ||
        die "INVALID: $1: a stream broke"
    before=$(($(cpu_us "${pids[$1]}") - before))
    read -r -a counted <<<"${result#RESULT }"
    calls[$1]=$((${calls[$1]:-0} + counted[1]))
    if (($3)); then
        cpu=$(per "$before" "${counted[0]}" 2)
        share=$(per "$before" "${counted[2]}" 0 100)
        say "$flood_streams streams without pauses, round $3/$rounds: $1, $2 price: $cpu µs a chunk, $share % of a core"
        echo "$1 $2 $3 $cpu $(per "${counted[0]}" "${counted[2]}" 0 1000000) $share" >>"$work/metered-flood"
    fi
}

# noted FILE SYSTEM KIND FIELD: the median of what was noted.
noted() { awk -v s="$2" -v k="$3" -v f="$4" '$1 == s && $2 == k { print $f }' "$work/$1" | median; }
# more FILE SYSTEM KIND BASE_SYSTEM BASE_KIND FIELD: how much more than a base, round by round, and then the median.
more() {
    awk -v s="$2" -v k="$3" -v bs="$4" -v bk="$5" -v f="$6" '
        $1 == bs && $2 == bk { base[$3] = $f }
        $1 == s && $2 == k { mine[$3] = $f }
        END { for (r in mine) if (r in base) printf "%.2f\n", mine[r] - base[r] }' "$work/$1" | median
}

report_metered() {
    local system kind label cpu_more head_more
    echo
    echo "A JSON call of 4 KiB, 32 connections, in µs (aim: a price by usage costs at most 15 µs CPU more):"
    echo
    echo "| system | CPU, fixed price | CPU, by usage | more | p50, fixed | p50, by usage | p99, fixed | p99, by usage |"
    echo "|---|---|---|---|---|---|---|---|"
    for system in $(running relaxed strict redis-relaxed); do
        printf '| %s | %s | %s | %s |' "${names[$system]}" "$(fixed "$(noted metered-calls "$system" fixed 4)" 1)" \
            "$(fixed "$(noted metered-calls "$system" metered 4)" 1)" \
            "$(fixed "$(more metered-calls "$system" metered "$system" fixed 4)" 1)"
        for kind in 5 6; do
            printf ' %s | %s |' "$(noted metered-calls "$system" fixed "$kind")" \
                "$(noted metered-calls "$system" metered "$kind")"
        done
        echo
    done
    echo
    echo "128 streams of 100 chunks of a chat, 10 ms apart, which leave the core idle most of the time; delays in ms (aim: under 1 ms more to the first byte at p99):"
    echo
    echo "| system | CPU µs/chunk | more than fixed | first byte p50 | p99 | more at p99 than the upstream itself | than the fixed price | first chunk p99 | other chunks p99 |"
    echo "|---|---|---|---|---|---|---|---|---|"
    for system in $(running upstream bare relaxed); do
        for kind in $(if [[ $system == relaxed ]]; then echo fixed metered; else echo fixed; fi); do
            label=${names[$system]} cpu_more=– head_more=–
            if [[ $kind == metered ]]; then
                label+=", by usage"
                cpu_more=$(fixed "$(more metered-streams "$system" metered "$system" fixed 4)" 2)
                head_more=$(milliseconds "$(more metered-streams "$system" metered "$system" fixed 6)")
            fi
            echo "| $label | $(fixed "$(noted metered-streams "$system" "$kind" 4)" 2) | $cpu_more" \
                "| $(milliseconds "$(noted metered-streams "$system" "$kind" 5)")" \
                "| $(milliseconds "$(noted metered-streams "$system" "$kind" 6)")" \
                "| $(milliseconds "$(more metered-streams "$system" "$kind" upstream fixed 6)")" \
                "| $head_more" \
                "| $(milliseconds "$(noted metered-streams "$system" "$kind" 8)")" \
                "| $(milliseconds "$(noted metered-streams "$system" "$kind" 10)") |"
        done
    done
    echo
    echo "$flood_streams streams of 1000 chunks of a chat without pauses, so that the core is full (aim: at most 1 µs CPU more a chunk than at a fixed price):"
    echo
    echo "| system | chunks/s | % of a core | CPU µs/chunk | more than fixed |"
    echo "|---|---|---|---|---|"
    for system in $(running upstream bare relaxed); do
        for kind in $(if [[ $system == relaxed ]]; then echo fixed metered; else echo fixed; fi); do
            label=${names[$system]} cpu_more=–
            if [[ $kind == metered ]]; then
                label+=", by usage"
                cpu_more=$(fixed "$(more metered-flood "$system" metered "$system" fixed 4)" 2)
            fi
            echo "| $label | $(fixed "$(noted metered-flood "$system" "$kind" 5)" 0) | $(fixed "$(noted metered-flood "$system" "$kind" 6)" 0)" \
                "| $(fixed "$(noted metered-flood "$system" "$kind" 4)" 2) | $cpu_more |"
        done
    done
    echo
    echo "Medians of $rounds turns of $row_seconds s each, in turns; differences round by round."
}
