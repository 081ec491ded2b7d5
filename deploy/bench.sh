#!/usr/bin/env bash
# Measures what the queue, leases, the limiter and coming in cost and prints the tables of the README: installs what this machine lacks, builds, and starts a private
# PostgreSQL and Redis with their defaults. Close what else runs; read ratios rather than numbers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/lib.sh
source deploy/lib.sh

need_all
install_missing

cargo build --release
cargo bench --bench queue --bench leases --bench limits --bench admission --no-run
start_stores "$(target_folder)/release/whatsnext"
cargo bench --bench queue --bench leases --bench limits --bench admission
