#!/usr/bin/env bash
# Builds benchmarks/litert_runner.c and puts it in a folder with all that it needs to run on a device:
#
#     bash benchmarks/build_runner.sh aarch64 runner/aarch64
#     bash benchmarks/build_runner.sh x86_64 runner/x86_64
#     bash benchmarks/build_runner.sh aarch64 runner/emulated --emulate qemu-aarch64
#
# The library is libLiteRt.so of the ai-edge-litert wheel (the installed one for this machine, else the same version's
# wheel for aarch64, by pip). The wheel is built for glibc, which Android does not have, so the folder brings the dynamic
# loader and the libraries of Debian's cross compiler along; `run` starts the program through that loader, which asks
# nothing of the system but its kernel. --emulate puts a static qemu before it; then `run` says so in its first line.
#
# PYTHON names the Python that has ai-edge-litert (default: .venv/bin/python). The cross compiler is taken from PATH, or
# from .cache/device/cross, where tests/fetch_device_tools.sh puts it. Where it stands, nothing is installed.
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
(($# == 2 || ($# == 4))) || { sed -n '2,7p' "$0" >&2; exit 2; }
architecture="$1"
mkdir -p "$2"
target="$(cd "$2" && pwd)"
emulator=""
if (($# == 4)); then
    [[ "$3" == --emulate ]] || { echo "build_runner: expected --emulate, found $3" >&2; exit 2; }
    emulator="$(command -v "$4" || true)"
    [[ -n "$emulator" ]] || { echo "build_runner: no emulator $4" >&2; exit 2; }
fi
python="${PYTHON:-$here/.venv/bin/python}"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

installed="$("$python" -c 'import importlib.util as u; print(u.find_spec("ai_edge_litert").submodule_search_locations[0])')"
case "$architecture" in
"$(uname -m)")
    cc "-O2" -Wall -Wextra -o "$target/litert_runner" "$here/benchmarks/litert_runner.c" -ldl
    cp "$installed/libLiteRt.so" "$target/"
    start='"$here/litert_runner"'
    ;;
aarch64)
    cross="${FACEERASER_CROSS:-$here/.cache/device/cross}"
    compiler=(aarch64-linux-gnu-gcc)
    libraries=/usr/aarch64-linux-gnu/lib
    if ! command -v "${compiler[0]}" >/dev/null; then
        [[ -x "$cross/usr/bin/${compiler[0]}" ]] || {
            echo "build_runner: no ${compiler[0]}; install gcc-aarch64-linux-gnu, or run tests/fetch_device_tools.sh" >&2
            exit 2
        }
        compiler=("$cross/usr/bin/${compiler[0]}" "--sysroot=$cross")
        libraries="$cross$libraries"
        export LD_LIBRARY_PATH="$cross/usr/lib/x86_64-linux-gnu"
    fi
    "${compiler[@]}" -O2 -Wall -Wextra -o "$target/litert_runner" "$here/benchmarks/litert_runner.c" -ldl
    unset LD_LIBRARY_PATH
    for library in ld-linux-aarch64.so.1 libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 libstdc++.so.6 libgcc_s.so.1; do
        cp -L "$libraries/$library" "$target/"
    done
    version="$("$python" -c 'from importlib.metadata import version; print(version("ai-edge-litert"))')"
    tag="$("$python" -c 'import sys; print("%d%d" % sys.version_info[:2])')"
    "$python" -m pip download --quiet --no-deps --only-binary :all: --python-version "$tag" --dest "$scratch" \
        --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
        "ai-edge-litert==$version"
    "$python" -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract("ai_edge_litert/libLiteRt.so", sys.argv[2])' \
        "$scratch"/*.whl "$scratch"
    cp "$scratch/ai_edge_litert/libLiteRt.so" "$target/"
    start='"$here/ld-linux-aarch64.so.1" --library-path "$here" "$here/litert_runner"'
    ;;
*)
    echo "build_runner: expected aarch64 or $(uname -m), found $architecture" >&2
    exit 2
    ;;
esac
{
    echo "#!/bin/sh"
    [[ -z "$emulator" ]] || echo "echo emulated 1"
    echo "here=\"\${0%/*}\""
    # Whether a push keeps modes depends on the adb.
    echo "chmod u+x \"\$here\"/litert_runner \"\$here\"/ld-linux-* \"\$here\"/qemu-* 2>/dev/null"
    [[ -z "$emulator" ]] || { cp "$emulator" "$target/"; start="\"\$here/${emulator##*/}\" $start"; }
    echo "exec $start \"\$here/libLiteRt.so\" \"\$@\""
} >"$target/run"
chmod 755 "$target/run" "$target/litert_runner"
echo "$target"
