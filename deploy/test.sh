#!/usr/bin/env bash
# Runs all tests: installs what this machine lacks, builds, and starts a private PostgreSQL and Redis for them, which are gone afterwards.
# Arguments go to `cargo nextest run`, and then only its tests are run (`deploy/test.sh claims`).
#
#   WHATSNEXT_NO_NEXTEST   if set, `cargo test` runs the tests where cargo-nextest is missing; otherwise it is installed, which takes minutes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/lib.sh
source deploy/lib.sh

need_rust
need have_compiler build-essential pkg-config
need have_postgres postgresql
need have_redis redis-server
need have_venv python3 python3-venv
need have_curl curl
install_missing

run=(cargo nextest run)
if ! have cargo-nextest; then
    if [[ -n ${WHATSNEXT_NO_NEXTEST:-} ]]; then
        run=(cargo test --all-targets)
    else
        say "installing cargo-nextest"
        cargo install cargo-nextest --locked
    fi
fi

cargo build --all-targets
binary=$(target_folder)/debug/whatsnext

# --- The stores ---
folder=$(mktemp -d)
stores=
stop_stores() {
    local status=$?
    if [[ -n $stores ]]; then
        kill "$stores" 2>/dev/null || true
        wait "$stores" || true
    fi
    rm -rf "$folder"
    exit "$status"
}
trap stop_stores EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$binary" dev --stores-only --dir "$folder" >/dev/null &
stores=$!
deadline=$((SECONDS + 240))
until [[ -e $folder/stores.env ]]; do
    kill -0 "$stores" 2>/dev/null || die "PostgreSQL and Redis did not come up"
    ((SECONDS < deadline)) || die "PostgreSQL and Redis are not up after 240 s"
    sleep 0.1
done
WHATSNEXT_TEST_DATABASE_URL=$(sed -n 's/^ADMIN_DATABASE_URL=//p' "$folder/stores.env")
WHATSNEXT_TEST_REDIS_URL=$(sed -n 's/^REDIS_URL=//p' "$folder/stores.env")
export WHATSNEXT_TEST_DATABASE_URL WHATSNEXT_TEST_REDIS_URL

# --- The tests ---
"${run[@]}" "$@"
if (($# == 0)); then
    cargo test --doc
    WHATSNEXT_BIN=$binary tests/python/run.sh
fi
