#!/usr/bin/env bash
# Tests the server with Python clients: the published one, a generated one, and schemathesis.
#
#   WHATSNEXT_BIN                 the binary to test
#   WHATSNEXT_TEST_DATABASE_URL   superuser's URL of the database `postgres`; others are made beside it and dropped
#   WHATSNEXT_TEST_REDIS_URL      a Redis
#   WHATSNEXT_VENV                where the virtual environment is kept (default: target/python)
#   WHATSNEXT_SCHEMATHESIS_SEED   other requests than the usual ones
#
# Arguments go to pytest: run.sh -k worker
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repository="$(cd "$here/../.." && pwd)"
venv="${WHATSNEXT_VENV:-$repository/target/python}"

fail() {
    echo "tests/python/run.sh: $1" >&2
    exit 2
}

for name in WHATSNEXT_BIN WHATSNEXT_TEST_DATABASE_URL WHATSNEXT_TEST_REDIS_URL; do
    [[ -n "${!name:-}" ]] || fail "$name is not set. The head of this file says what each variable is for."
done
[[ -x "$WHATSNEXT_BIN" ]] || fail "WHATSNEXT_BIN=$WHATSNEXT_BIN is not a program: build it with \`cargo build\`."
WHATSNEXT_BIN="$(cd "$(dirname "$WHATSNEXT_BIN")" && pwd)/$(basename "$WHATSNEXT_BIN")"
export WHATSNEXT_BIN
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "python3 3.11 or newer is needed."

# The list that was installed is kept in the environment, and last: an installation that was cut short is done again.
installed="$venv/installed-requirements.txt"
if ! cmp --silent "$here/requirements.txt" "$installed"; then
    [[ ! -e "$venv" || -f "$venv/pyvenv.cfg" ]] || fail "WHATSNEXT_VENV=$venv is there and no virtual environment."
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$installed"
fi

cd "$here"
export PYTHONDONTWRITEBYTECODE=1
exec "$venv/bin/python" -m pytest "$@"
