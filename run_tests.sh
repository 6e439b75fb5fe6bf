#!/usr/bin/env bash
# Makes .venv if there is none (see .ci/set_up.sh) and runs the tests.
#
#   ./run_tests.sh                     all of them
#   ./run_tests.sh tests/test_x.py -k name      arguments go to pytest
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
"$root/.ci/set_up.sh"
cd "$root"
exec .venv/bin/python -m pytest "$@"
