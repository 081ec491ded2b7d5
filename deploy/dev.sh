#!/usr/bin/env bash
# Runs WhatsNext on this machine: installs what it lacks, builds, and starts `whatsnext dev`, which gets all arguments (`deploy/dev.sh --help`).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/lib.sh
source deploy/lib.sh

need_all
install_missing

cargo build --release
exec "$(target_folder)/release/whatsnext" dev "$@"
