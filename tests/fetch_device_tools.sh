#!/usr/bin/env bash
# Fetches what the device tests run against, without root and without installing anything:
#
#     bash tests/fetch_device_tools.sh [FOLDER]        FOLDER: .cache/device
#
#   FOLDER/trixie/   adbd 34, the daemon that runs on a phone, with all the libraries it needs, and qemu-user 10, for ARM
#                    and for older x86-64 CPUs (bookworm's qemu 7.2 crashes on LiteRT's library, and bookworm has no adbd)
#   FOLDER/cross/    gcc for aarch64 from this machine's own suite, unless aarch64-linux-gnu-gcc is installed
#   FOLDER/cross/    adb of this machine's own suite: bookworm's returns 0 when a device is lost, which must be caught
#
# Packages come as tests/debian_packages.sh says. What is there already is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/debian_packages.sh
packages_into "${1:-.cache/device}"
suite="$(. /etc/os-release && echo "${VERSION_CODENAME:-}")"

unpack trixie trixie adbd qemu-user
# The package has an emulator for every processor, 400 MB of them.
find "$folder/trixie/usr/bin" -name 'qemu-*' ! -name qemu-aarch64 ! -name qemu-x86_64 -delete
unpack cross "${suite:-trixie}" adb $(command -v aarch64-linux-gnu-gcc >/dev/null || echo gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
echo "$folder"
