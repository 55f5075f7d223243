#!/usr/bin/env bash
# Install the C++ library from a build directory, build examples/cpp against it and quantize a model with it.
#
#   tools/run_cpp_example.sh BUILD_DIR WORK_DIR
#
# CMAKE and PYTHON name the programs to use; PYTHON is the one whose wheels hold Arrow. A model from the shared folder
# is taken where there is one, else the example model of this tree.
set -euo pipefail
cd "$(dirname "$0")/.."

build=$1
work=$(realpath -m "$2")
cmake=${CMAKE:-cmake}
python=$(realpath -s "${PYTHON:-.venv/bin/python}")

rm -rf "$work"
"$cmake" --install "$build" --component cpp --prefix "$work/install" >/dev/null
"$cmake" -S examples/cpp -B "$work/example" -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$work/install" \
  -DPython_EXECUTABLE="$python" --log-level=WARNING
"$cmake" --build "$work/example"

# Whatever is installed can be included by itself.
find "$work/install/include" -name '*.h' -print0 |
  xargs -0 -I HEADER "${CXX:-c++}" -std=c++20 -fsyntax-only -I "$work/install/include" -include HEADER -x c++ /dev/null

model=../shared/models/dit_mnist
[ -d "$model" ] || model=examples/models/dit_mnist
"$work/example/quantize" "$model" "$work/quantized" 4
test -s "$work/quantized/manifest.json"
