#!/usr/bin/env bash
# Make sure that the system has what pip cannot bring: a C++20 compiler, Python >= 3.11 with venv and headers, and for
# the C++ unit tests GoogleTest. As root with apt-get the missing ones are installed; otherwise a sentence names them.
#
#   tools/system_packages.sh build   compiler and Python: exit 1 when something is missing
#   tools/system_packages.sh gtest   GoogleTest: exit 3 when missing, so that the caller can leave those tests out
#   tools/system_packages.sh fuzz    clang with libFuzzer and sanitizers: exit 3 when missing
#   tools/system_packages.sh browser Chromium, which one test of the report looks at pages with: exit 3 when missing
#   tools/system_packages.sh python  print the interpreter to make the environment with
#
# PYTHON names the interpreter to use; CXX the compiler.
set -euo pipefail

# The newest minor that the pinned wheels exist for.
readonly NEWEST_PYTHON_MINOR=14

python_fits() {
  "$1" -I -c "import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, $NEWEST_PYTHON_MINOR)))" 2>/dev/null
}

find_python() {
  local name
  for name in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
    if command -v "$name" >/dev/null && python_fits "$name"; then
      command -v "$name"
      return
    fi
  done
  return 1
}

python_has_venv() { "$1" -I -c 'import ensurepip, venv' 2>/dev/null; }

python_has_headers() {
  "$1" -I -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null
}

compiler_fits() {
  echo '#include <concepts>
int main() { return std::same_as<int, int> ? 0 : 1; }' |
    "${CXX:-c++}" -std=c++20 -x c++ -fsyntax-only - >/dev/null 2>&1
}

gtest_found() {
  echo '#include <gtest/gtest.h>' | "${CXX:-c++}" -std=c++20 -x c++ -fsyntax-only - >/dev/null 2>&1
}

can_install() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; }

# What the person without root or apt-get has to install. The names are Debian's and Ubuntu's.
ask_for() {
  echo "Please install: $* (on Debian and Ubuntu: sudo apt-get install $*), then run the same command again." >&2
}

install() {
  echo "==> installing system packages: $*" >&2
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# The distribution's package of an interpreter that lacks venv or headers: python3.12 -> python3.12-venv.
python_package() {
  "$1" -I -c "import sys; print('python%d.%d-$2' % sys.version_info[:2])"
}

# Packages of a newer interpreter where the distribution's python3 is older than 3.11.
python_packages_to_install() {
  local version
  if can_install; then
    apt-get update -qq >&2
    for version in 3.13 3.12 3.11; do
      if apt-cache show "python$version-venv" >/dev/null 2>&1; then
        echo "python$version python$version-venv python$version-dev"
        return
      fi
    done
  fi
  echo "python3 python3-venv python3-dev"
}

missing_for_build() {
  local python
  compiler_fits || echo g++
  if ! python=$(find_python); then
    python_packages_to_install
    return
  fi
  python_has_venv "$python" || python_package "$python" venv
  python_has_headers "$python" || python_package "$python" dev
}

explain_failure() {
  compiler_fits || echo "A C++20 compiler is needed (g++ 11 or newer); ${CXX:-c++} is missing or older." >&2
  find_python >/dev/null || echo "Python 3.11 to 3.$NEWEST_PYTHON_MINOR is needed; set PYTHON to its path." >&2
}

require_build() {
  local missing
  missing=$(missing_for_build | xargs)
  [ -n "$missing" ] || return 0
  if can_install; then
    # shellcheck disable=SC2086
    install $missing || true
    missing=$(missing_for_build | xargs)
    [ -n "$missing" ] || return 0
  fi
  explain_failure
  ask_for "$missing"
  exit 1
}

require_gtest() {
  gtest_found && return 0
  if can_install && install libgtest-dev && gtest_found; then
    return 0
  fi
  ask_for libgtest-dev
  exit 3
}

fuzzer_found() {
  local program status=0
  program=$(mktemp)
  echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
    clang++-14 -fsanitize=fuzzer,address,undefined -x c++ - -o "$program" >/dev/null 2>&1 || status=1
  rm -f "$program"
  return $status
}

require_fuzz() {
  fuzzer_found && return 0
  if can_install && install clang-14 libclang-rt-14-dev && fuzzer_found; then
    return 0
  fi
  ask_for clang-14 libclang-rt-14-dev
  exit 3
}

browser_found() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

require_browser() {
  browser_found >/dev/null && return 0
  if can_install && install chromium && browser_found >/dev/null; then
    return 0
  fi
  ask_for chromium
  exit 3
}

case "${1:-}" in
  build) require_build ;;
  gtest) require_gtest ;;
  fuzz) require_fuzz ;;
  browser) require_browser ;;
  python) find_python ;;
  *)
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
