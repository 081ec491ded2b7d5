#!/usr/bin/env bash
# Runs all tests: installs what this machine lacks, builds, starts a private PostgreSQL and Redis for them, which are gone afterwards, and checks
# the files of deploy/ (check.sh).
# Arguments go to `cargo nextest run`, and then only its tests are run (`deploy/test.sh claims`).
#
#   WHATSNEXT_TEST_POOLER  if set, the servers reach PostgreSQL by way of PgBouncer, in all tests that do not choose their own way
#   WHATSNEXT_NO_NEXTEST   if set, `cargo test` runs the tests where cargo-nextest is missing; otherwise it is installed, which takes minutes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/lib.sh
source deploy/lib.sh

need_all
need have_venv python3 python3-venv
need have_curl curl
need have_balancers nginx haproxy caddy
need have_pgbouncer pgbouncer
need have_chromium chromium
need have_promtool prometheus
install_missing

run=(cargo nextest run)
if ! have cargo-nextest; then
    if [[ -n ${WHATSNEXT_NO_NEXTEST:-} ]]; then
        run=(cargo test --lib --bins --tests)
    else
        say "installing cargo-nextest"
        cargo install cargo-nextest --locked
    fi
fi

cargo build --all-targets
binary=$(target_folder)/debug/whatsnext

start_stores "$binary"
if [[ -n ${WHATSNEXT_TEST_POOLER:-} ]]; then
    start_pooler
fi

"${run[@]}" "$@"
if (($# == 0)); then
    cargo test --doc
    WHATSNEXT_BIN=$binary tests/python/run.sh
    deploy/check.sh
fi
