#!/usr/bin/env bash
# Run every fuzz target, one after the other, on the kept corpus. Exits 1 when one finds a crash, a hang or a leak.
#
#   tools/run_fuzzers.sh [SECONDS]              so long for each target; default 60
#   FUZZ_RUNS=1000000 tools/run_fuzzers.sh      so many executions for each target instead
#   FUZZ_TARGETS="header yaml" ...              only these
#
# Targets are the programs fuzz_* in build/fuzz (or FUZZ_BUILD) and `yaml`, which needs atheris in the Python that PYTHON names and the
# package's core built in the tree. What is found goes there, too: corpus/ (new inputs), crashes/, logs/.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly OUT=${FUZZ_BUILD:-build/fuzz}
readonly SEEDS=tests/fuzz_corpus
python=${PYTHON:-.venv/bin/python}
if [ -n "${FUZZ_RUNS:-}" ]; then limit="-runs=$FUZZ_RUNS"; else limit="-max_total_time=${1:-60}"; fi

# Undefined behaviour must end the run, an allocation that the system refuses must not.
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export ASAN_OPTIONS=allocator_may_return_null=1

targets() {
  local program
  for program in "$OUT"/fuzz_*; do
    if [ -x "$program" ] && [ -f "$program" ]; then echo "${program##*/fuzz_}"; fi
  done
  echo yaml
}

command_of() {
  if [ "$1" = yaml ]; then
    echo "env PYTHONPATH=python $python tools/fuzz_config_yaml.py"
  else
    echo "$OUT/fuzz_$1"
  fi
}

run_target() {
  local name=$1 log="$OUT/logs/$1.log" begin=$SECONDS
  mkdir -p "$OUT/corpus/$name" "$OUT/crashes" "$OUT/logs"
  # shellcheck disable=SC2046
  if ! $(command_of "$name") "$limit" -timeout=30 -rss_limit_mb=4096 -max_len=16384 -print_final_stats=1 \
    "-artifact_prefix=$OUT/crashes/$name-" "$OUT/corpus/$name" "$SEEDS/$name" >"$log" 2>&1; then
    echo "fuzz $name: failed; see $log and $OUT/crashes/" >&2
    tail -n 30 "$log" >&2
    return 1
  fi
  echo "fuzz $name: $(grep -oE '^Done [0-9]+ runs' "$log" | grep -oE '[0-9]+' || echo 0) executions" \
    "in $((SECONDS - begin)) s, no crash"
}

failed=0
for name in ${FUZZ_TARGETS:-$(targets)}; do run_target "$name" || failed=1; done
exit $failed
