# shellcheck shell=bash
# What dev.sh and test.sh share: installing what a machine lacks. To be sourced; the caller works in the repository's root.

say() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
}

die() {
    say "$*"
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

have_postgres() {
    have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}

have_redis() {
    have redis-server || have valkey-server
}

# A compiler is needed for the C parts of ring and mimalloc.
have_compiler() {
    have cc
}

have_curl() {
    have curl
}

have_balancers() {
    [[ -x /usr/sbin/nginx && -x /usr/sbin/haproxy && -x /usr/bin/caddy ]]
}

have_pgbouncer() {
    [[ -x /usr/sbin/pgbouncer ]]
}

have_chromium() {
    have chromium
}

# Only its checker is used.
have_promtool() {
    have promtool
}

have_venv() {
    have python3 && python3 -c 'import venv, ensurepip' 2>/dev/null
}

# need CHECK PACKAGE...: notes Debian's packages as missing unless the check succeeds.
missing=()
need() {
    local check=$1
    shift
    "$check" || missing+=("$@")
}

# Installs what was noted. Elsewhere than on Debian and its kin it says what to install.
install_missing() {
    ((${#missing[@]})) || return 0
    have apt-get || die "install what Debian calls ${missing[*]}, with its programs in PATH, and run this again"
    local root=()
    if ((EUID != 0)); then
        have sudo || die "run as root, or with sudo installed: apt-get install ${missing[*]}"
        root=(sudo)
    fi
    say "installing ${missing[*]}"
    "${root[@]}" apt-get update -qq
    keep_services_down "${root[@]}"
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
    allow_services "${root[@]}"
    missing=()
}

# Debian starts the services that it installs, unless this file says no. Ours are private, so those of the system need not run.
policy=/usr/sbin/policy-rc.d
policy_is_ours=
keep_services_down() {
    [[ ! -e $policy ]] || return 0
    printf '#!/bin/sh\nexit 101\n' | "$@" tee "$policy" >/dev/null
    "$@" chmod 755 "$policy"
    policy_is_ours=yes
    # shellcheck disable=SC2064 # what is to be run is known now
    trap "$* rm -f $policy" EXIT
}

allow_services() {
    [[ -n $policy_is_ours ]] || return 0
    "$@" rm -f "$policy"
    policy_is_ours=
    trap - EXIT
}

# What every build and every run needs.
need_all() {
    need_rust
    need have_compiler build-essential pkg-config
    need have_postgres postgresql
    need have_redis redis-server
}

need_rust() {
    have cargo || die "cargo is missing: install Rust from https://rustup.rs and run this again"
}

# The folder that cargo builds into.
target_folder() {
    printf '%s\n' "${CARGO_TARGET_DIR:-target}"
}

# start_stores BINARY: starts a private PostgreSQL and Redis, which are gone when the script ends, and exports where they are.
stores_folder=
stores_process=
start_stores() {
    stores_folder=$(mktemp -d)
    trap stop_stores EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    "$1" dev --stores-only --dir "$stores_folder" >"$stores_folder/report" &
    stores_process=$!
    local deadline=$((SECONDS + 240))
    until [[ -e $stores_folder/stores.env ]]; do
        kill -0 "$stores_process" 2>/dev/null || die "PostgreSQL and Redis did not come up"
        ((SECONDS < deadline)) || die "PostgreSQL and Redis are not up after 240 s"
        sleep 0.1
    done
    WHATSNEXT_TEST_DATABASE_URL=$(sed -n 's/^ADMIN_DATABASE_URL=//p' "$stores_folder/stores.env")
    WHATSNEXT_TEST_REDIS_URL=$(sed -n 's/^REDIS_URL=//p' "$stores_folder/stores.env")
    export WHATSNEXT_TEST_DATABASE_URL WHATSNEXT_TEST_REDIS_URL
}

# Puts PgBouncer before that PostgreSQL, as deploy/pgbouncer has it but for all databases, and exports where it is.
pooler_process=
start_pooler() {
    local folder=$stores_folder/pgbouncer sockets port=$((20000 + RANDOM % 10000)) as=()
    sockets=$(sed -n 's/^  psql .* -h \([^ ]*\) .*/\1/p' "$stores_folder/report")
    mkdir "$folder"
    echo '"postgres" ""' >"$folder/userlist.txt"
    sed -e "s|^whatsnext = host=127.0.0.1 port=5432 dbname=whatsnext|* = host=$sockets port=5432|" -e "s|^listen_port = .*|listen_port = $port|" \
        -e 's|^auth_type = .*|auth_type = trust|' -e "s|^auth_file = .*|auth_file = $folder/userlist.txt|" \
        -e 's|^default_pool_size = .*|default_pool_size = 24\nserver_idle_timeout = 5|' deploy/pgbouncer/pgbouncer.ini >"$folder/pgbouncer.ini"
    if ((EUID == 0)); then
        as=(-u "$(stat -c %U "$sockets")")
        chmod 755 "$folder"
    fi
    /usr/sbin/pgbouncer -q "${as[@]}" "$folder/pgbouncer.ini" 2>"$folder/log" &
    pooler_process=$!
    local deadline=$((SECONDS + 10))
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        kill -0 "$pooler_process" 2>/dev/null && ((SECONDS < deadline)) || die "PgBouncer did not come up: $(cat "$folder/log")"
        sleep 0.1
    done
    export WHATSNEXT_TEST_POOLER_URL=postgres://postgres@127.0.0.1:$port/postgres
}

stop_stores() {
    local status=$?
    if [[ -n $pooler_process ]]; then
        kill "$pooler_process" 2>/dev/null || true
        wait "$pooler_process" || true
    fi
    if [[ -n $stores_process ]]; then
        kill "$stores_process" 2>/dev/null || true
        wait "$stores_process" || true
    fi
    rm -rf "$stores_folder"
    exit "$status"
}
