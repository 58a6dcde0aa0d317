#!/usr/bin/env bash
# Runs a command as on an older CPU, whose instruction sets are fewer (hide_isa.c; x86-64 Linux, needs a C compiler):
#
#     bash benchmarks/hide_isa.sh avx512 python benchmarks/speed.py ...     AVX2 alone: no AVX-512, no VNNI, no AMX
#     bash benchmarks/hide_isa.sh amx python benchmarks/speed.py ...        no AMX
#
# The `isa` of a result is then what is left, and `hidden` beside it says what was hidden.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
(($# >= 2)) && [[ "$1" == avx512 || "$1" == amx ]] || { sed -n '2,7p' "$0" >&2; exit 2; }
command -v cc > /dev/null || { echo "hide_isa: no C compiler cc; install one" >&2; exit 2; }
export HIDE_ISA="$1"
shift
library="$(mktemp -d)"
trap 'rm -rf "$library"' EXIT
cc -O2 -shared -fPIC -o "$library/hide_isa.so" "$here/hide_isa.c"
LD_PRELOAD="$library/hide_isa.so" "$@"
