#!/usr/bin/env bash
# Builds export/resampler_delegate.cc, the plugin that runs a `-gpu-resampler` file on a CPU:
#
#     bash export/build_resampler.sh resampler.so
#
# CXX names the compiler (default: c++), a cross compiler say; both GCC and Clang will do. Nothing but the file is made.
set -euo pipefail
(($# == 1)) || { sed -n '2,6p' "$0" >&2; exit 2; }
compiler="${CXX:-c++}"
command -v "$compiler" >/dev/null || {
    echo "build_resampler: no $compiler; install g++ or clang, or name a C++ compiler: CXX=... bash $0 $1" >&2
    exit 2
}
[[ -d "$(dirname "$1")" ]] || { echo "build_resampler: no folder $(dirname "$1")" >&2; exit 2; }
# Built beside the target and renamed: whoever loads it sees a whole file.
partial="$1.partial-$$"
trap 'rm -f "$partial"' EXIT
"$compiler" -std=c++17 -O3 -Wall -Wextra -Werror -shared -fPIC -fvisibility=hidden -o "$partial" \
    "$(dirname "$0")/resampler_delegate.cc"
mv "$partial" "$1"
