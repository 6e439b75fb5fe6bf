#!/usr/bin/env bash
# Makes .venv as requirements.txt and setup.py say, once: run_local.sh, run_tests.sh and .ci/run
# call it first. Prints nothing if there is nothing to do.
#
#   PYTHON   a Python 3.11 or newer to use; else python3.11 is looked for
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"

# What .venv is made from. Its copy inside .venv is written last, so half a .venv is never taken
# for a whole one; comparing it costs a few milliseconds. The folder is part of it, as a virtual
# environment that was moved or copied does not work.
wanted() {
  echo "$root"
  cat "$root/setup.py" "$root/requirements.txt" "$root/.ci/set_up.sh"
}
ready() { wanted | cmp -s - "$venv/made_from" && [ -x "$venv/bin/python" ]; }
say() { echo "set up: $*" >&2; }

if ready; then exit 0; fi

# Two of us at once would write into each other's .venv. The second waits, and finds it ready.
if command -v flock >/dev/null; then
  exec 9>"$root/.set_up.lock"
  flock -n 9 || { say "waiting for another set-up of this folder"; flock 9; }
  if ready; then exit 0; fi
fi

fits() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=""
for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3 python; do
  if command -v "$candidate" >/dev/null && fits "$candidate"; then
    python="$candidate"
    break
  elif [ "$candidate" = "${PYTHON:-}" ]; then
    say "PYTHON=$PYTHON is not a Python 3.11 or newer with its venv module"
    exit 3
  fi
done
if [ -z "$python" ]; then
  say "needs Python 3.11 with its venv module, and found none (Debian, Ubuntu: apt install" \
    "python3.11-venv; macOS: brew install python@3.11). If it has another name: PYTHON=... $0"
  exit 3
fi

say "making .venv with $("$python" --version), once; about 5 GB with the CUDA libraries of torch"
rm -f "$venv/made_from"
"$python" -m venv --clear "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)

# uv installs several times faster than pip. It does not read pip's settings, so a mirror that pip
# was told about is passed on; where uv cannot be had or fails, pip does the same.
with_uv() {
  local uv="$venv/bin/uv" mirror
  if ! "${pip[@]}" install "$(grep '^uv==' "$root/requirements.txt")"; then return 1; fi
  mirror="$("${pip[@]}" config get global.index-url 2>/dev/null || true)"
  mirror="${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$mirror}}"
  if [ -n "$mirror" ]; then export UV_DEFAULT_INDEX="$mirror"; fi
  "$uv" pip install --quiet --python="$venv/bin/python" --requirement="$root/requirements.txt" &&
    "$uv" pip install --quiet --python="$venv/bin/python" --no-deps --no-build-isolation \
      --editable="$root"
}
with_pip() {
  "${pip[@]}" install --requirement="$root/requirements.txt" &&
    "${pip[@]}" install --no-deps --no-build-isolation --editable="$root"
}
with_uv || { say "uv did not work here; using pip"; with_pip; } || {
  say "could not install (see above); running this again starts over"
  exit 5
}

wanted >"$venv/made_from.new"
mv "$venv/made_from.new" "$venv/made_from"
say "done in $SECONDS s"
