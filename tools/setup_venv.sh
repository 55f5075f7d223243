#!/usr/bin/env bash
# Make the virtual environment and install a requirements file into it.
#
#   tools/setup_venv.sh VENV REQUIREMENTS
set -euo pipefail

venv=$1
requirements=$2
here=$(cd "$(dirname "$0")" && pwd)

"$here/system_packages.sh" build
if ! "$venv/bin/python" -I -c 'import pip' 2>/dev/null; then
  python=$("$here/system_packages.sh" python)
  echo "==> making the virtual environment $venv with $("$python" -I --version)"
  "$python" -I -m venv --clear "$venv"
fi
echo "==> installing $requirements into $venv"
"$venv/bin/python" -I -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
