#!/usr/bin/env bash
# Runs the main job on this machine.
#
#   ./run_local.sh                     on the example: real text, made into token ids on the spot
#   ./run_local.sh --model=DIR --input=PATH --output=DIR ...
#                                      on your own files; ./run_local.sh --help lists the flags
#
# The first call makes .venv (see .ci/set_up.sh). Works from any folder; the exit code is the job's.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
"$root/.ci/set_up.sh"
python="$root/.venv/bin/python"

if [ $# -gt 0 ]; then
  # Safe path: a folder of the user's that happens to be called `pipeline` is not ours.
  PYTHONSAFEPATH=1 exec "$python" -m pipeline "$@"
fi

cd "$root"
data=examples/data

# The example is built again when its code, the model's or Python has changed.
wanted() {
  "$python" -VV
  cat examples/*.py object2vec/*.py
}
if ! wanted | cmp -s - "$data/built_from"; then
  echo "Building the example in $data"
  "$python" -m examples.build --output="$data"
  wanted >"$data/built_from"
fi

command=(-m pipeline "--model=$data/model" "--input=$data/input" "--output=$data/output")
echo "python ${command[*]}"
"$python" "${command[@]}"

columns="${COLUMNS:-$(tput cols 2>/dev/null || echo 100)}"
first="$data/output/part-00000.jsonl.out"
echo
echo "The first lines of $first:"
head -n 3 "$first" | cut -c "1-$columns"
echo
"$python" -m examples.neighbours --data="$data" --output="$data/output"
echo
echo "On your own files: ./run_local.sh --model=DIR --input=PATH --output=DIR"
