# shellcheck shell=bash disable=SC2154,SC2034 # scripts/bench.sh, which reads this file, shares its variables
# `scripts/bench.sh --count`: what one request costs in system calls (strace) and in instructions of user space
# (callgrind). Both are counted, not timed, so they are the same on a busy machine. Sourced by scripts/bench.sh.
#
# A gateway under callgrind is some fifty times slower and its batches are smaller, so instructions are counted at few
# connections. Valgrind's processor has no SHA instructions: a token's hash counts some thousand instructions more than it
# needs elsewhere.
#
# Environment: BENCH_COUNT_CONNECTIONS (8). BENCH_KEEP=1 keeps callgrind's profiles, for callgrind_annotate.

readonly count_connections=${BENCH_COUNT_CONNECTIONS:-8}

# Starts a system again, under callgrind, which counts nothing until it is told to.
restart_under_callgrind() { # SYSTEM
    kill -TERM "${pids[$1]}"
    wait "${pids[$1]}" || true
    under=(valgrind --tool=callgrind --instr-atstart=no --callgrind-out-file="$work/callgrind.%p")
    start_system "$1"
    under=()
}

# The instructions of a request. Sets `instructions`.
count_instructions() { # SYSTEM
    local pid=${pids[$1]}
    turn "$1" "$count_connections" "$warmup"
    callgrind_control -i on "$pid" >/dev/null
    turn "$1" "$count_connections" "$seconds"
    callgrind_control -i off "$pid" >/dev/null
    callgrind_control -d "$pid" >/dev/null
    instructions=$(awk -v n="$turn_requests" '/^totals:/ { sum += $2 } END { printf "%.0f", sum / n }' "$work/callgrind.$pid".*)
}

# The system calls of a request, and the most frequent of them. Sets `system_calls` and `names_of_calls`.
count_system_calls() { # SYSTEM
    local pid=${pids[$1]}
    strace -f -c -q -U calls,name -o "$work/strace-$1" -p "$pid" 2>/dev/null &
    pids[strace]=$!
    sleep 1
    turn "$1" "$count_connections" "$seconds"
    kill -INT "${pids[strace]}"
    wait "${pids[strace]}" || true
    unset 'pids[strace]'
    system_calls=$(awk -v n="$turn_requests" '$2 == "total" { printf "%.1f", $1 / n }' "$work/strace-$1")
    names_of_calls=$(awk -v n="$turn_requests" '
        $1 ~ /^[0-9]+$/ && $2 != "total" && $1 / n >= 0.05 { printf "%s%s %.1f", sep, $2, $1 / n; sep = ", " }' "$work/strace-$1")
}

report_count() {
    local system tool instructions system_calls names_of_calls
    for tool in strace valgrind callgrind_control; do
        command -v "$tool" >/dev/null || die "$tool is missing (Debian and Ubuntu: apt-get install strace valgrind)"
    done
    echo
    echo "| system | instructions a request | system calls a request | of them |"
    echo "|---|---|---|---|"
    for system in "${systems[@]}"; do
        count_system_calls "$system"
        restart_under_callgrind "$system"
        count_instructions "$system"
        echo "| ${names[$system]} | $instructions | $system_calls | $names_of_calls |"
    done
}
