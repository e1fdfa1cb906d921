# Private servers on free ports of this machine, for scripts/bench.sh and scripts/run-cluster.sh, which source
# this. `stop_all` ends every server that was started here, by its process id.
# shellcheck shell=bash
#
# Expects `work`, a folder for logs, and `die`.
: "${work:?}"

declare -A pids=() taken=()
started=() # names, in order

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Sets `port` to one where nobody listens, of FAREBOX_PORTS from FAREBOX_FIRST_PORT on.
free_port() {
    while port=$((${FAREBOX_FIRST_PORT:-20000} + RANDOM % ${FAREBOX_PORTS:-10000})); [[ ${taken[$port]:-} ]] || answers "$port"; do :; done
    taken[$port]=1
}

# start NAME COMMAND…: in the background, its output in the work folder.
start() {
    local name=$1
    shift
    "$@" >"$work/$name.log" 2>&1 &
    pids[$name]=$!
    started+=("$name")
}

await_port() { # NAME PORT
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        kill -0 "${pids[$1]}" 2>/dev/null || break
        if answers "$2"; then return; fi
        sleep 0.1
    done
    tail -n 20 "$work/$1.log" >&2
    die "$1 did not start (its last lines are above)"
}

await_ready() { # NAME ADMIN_PORT
    local tries
    for ((tries = 0; tries < 400; tries++)); do
        kill -0 "${pids[$1]}" 2>/dev/null || break
        if curl -sf -o /dev/null "http://127.0.0.1:$2/readyz"; then return; fi
        sleep 0.1
    done
    tail -n 20 "$work/$1.log" >&2
    die "$1 is not ready (its last lines are above)"
}

# Ends the servers, the last one first, so that gateways end before the servers that they use. A process
# that takes longer than ten seconds is killed.
stop_all() {
    local at name pid tries
    for ((at = ${#started[@]} - 1; at >= 0; at--)); do
        name=${started[at]}
        pid=${pids[$name]:-}
        if [[ ! $pid ]]; then continue; fi
        # For Postgres SIGINT is "now, but properly"; at SIGTERM it waits for its clients to leave.
        if [[ $name == postgres ]]; then kill -INT "$pid" 2>/dev/null || true; fi
        kill -TERM "$pid" 2>/dev/null || true
        for ((tries = 0; tries < 100; tries++)); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    pids=()
    if [[ $postgres_folder ]]; then rm -rf "$postgres_folder"; fi
}

# start_redis NAME PORT [COMMAND…]: empty, keeping nothing on disk; COMMAND goes before it.
start_redis() {
    local name=$1 port=$2 program
    shift 2
    program=$(command -v redis-server || command -v valkey-server) ||
        die "redis-server is missing; scripts/setup.sh cluster installs it"
    start "$name" "$@" "$program" --port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$work"
    await_port "$name" "$port"
}

postgres_folder= # its data; on a disk, because it has to be written before the server answers
as_postgres=()   # the server refuses root

# Sets `postgres_bin`. Debian keeps the server's programs off the PATH, in a folder of each version.
find_postgres() {
    local folder
    for folder in "$(pg_config --bindir 2>/dev/null || true)" \
        "$(compgen -G '/usr/lib/postgresql/*/bin' | sort -V | tail -n 1)" \
        "$(dirname "$(command -v postgres || true)")"; do
        if [[ -x $folder/postgres && -x $folder/initdb ]]; then
            postgres_bin=$folder
            return
        fi
    done
    die "Postgres is missing; scripts/setup.sh cluster installs it"
}

# start_postgres PORT [COMMAND…]: sets `postgres_url`, without a database's name.
start_postgres() {
    local port=$1 user=
    shift
    find_postgres
    if ((EUID == 0)); then
        for user in postgres nobody; do if id "$user" >/dev/null 2>&1; then break; fi; done
        as_postgres=(setpriv "--reuid=$(id -u "$user")" "--regid=$(id -g "$user")" --clear-groups --)
        # The work folder may be closed to that user.
        postgres_folder=$(mktemp -d /var/tmp/farebox-postgres.XXXXXX)
        chown "$user" "$postgres_folder"
    else
        postgres_folder=$(mktemp -d "$work/postgres.XXXXXX")
    fi
    (cd / && "${as_postgres[@]}" "$postgres_bin/initdb" -D "$postgres_folder/data" --username farebox \
        --auth trust --encoding UTF8 --locale C) >"$work/initdb.log" 2>&1 ||
        die "initdb failed: $(cat "$work/initdb.log")"
    start postgres "$@" "${as_postgres[@]}" "$postgres_bin/postgres" -D "$postgres_folder/data" \
        -p "$port" -h 127.0.0.1 -k ''
    await_port postgres "$port"
    postgres_url="postgres://farebox@127.0.0.1:$port"
    # It takes connections a moment before it can serve them.
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        if sql postgres 'SELECT 1' >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    die "Postgres takes no connections: $(tail -n 5 "$work/postgres.log")"
}

sql() { # DATABASE SQL
    "$postgres_bin/psql" --no-psqlrc -qAt -v ON_ERROR_STOP=1 -d "$postgres_url/$1" -c "$2"
}
