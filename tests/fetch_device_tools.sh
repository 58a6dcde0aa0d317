#!/usr/bin/env bash
# Fetches what the device tests run against, without root and without installing anything:
#
#     bash tests/fetch_device_tools.sh [FOLDER]        FOLDER: .cache/device
#
#   FOLDER/trixie/   adbd 34, the daemon that runs on a phone, with all the libraries it needs, and qemu-user 10
#                    (bookworm's qemu 7.2 crashes on LiteRT's library, and bookworm has no adbd)
#   FOLDER/cross/    gcc for aarch64 from this machine's own suite, unless aarch64-linux-gnu-gcc is installed
#   FOLDER/cross/    adb of this machine's own suite: bookworm's returns 0 when a device is lost, which must be caught
#
# Packages come through apt from the mirror that this machine's own apt uses, into lists and caches of FOLDER's own, and
# are unpacked, not installed. What is there already is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."
folder="${1:-.cache/device}"
mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"

for tool in apt-get apt-cache dpkg-deb; do
    command -v "$tool" >/dev/null || { echo "fetch_device_tools: no $tool; Debian or Ubuntu is needed for this" >&2; exit 2; }
done
[[ "$(dpkg --print-architecture)" == amd64 ]] || { echo "fetch_device_tools: only for amd64 machines" >&2; exit 2; }
suite="$(. /etc/os-release && echo "${VERSION_CODENAME:-}")"
# "deb URI SUITE ..." lines and deb822's "URIs: URI" alike: the first mirror that ends in /debian, as a real one does.
mirror="$(grep -rhoE '(https?|file)://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null |
    grep -vE '^#' | head -n 1 | tr -d ' ' || true)"
if [[ -z "$mirror" ]]; then
    echo "fetch_device_tools: no Debian mirror among apt's sources; found none that ends in /debian" >&2
    exit 2
fi

# apt_in NAME SUITE COMMAND...: apt with lists, cache and status of its own, so that nothing of the system's is touched.
apt_in() {
    local home="$folder/apt-$1" from="$2"
    shift 2
    mkdir -p "$home/lists/partial" "$home/cache/archives/partial" "$home/parts"
    echo "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $from main" >"$home/sources"
    local tool="$1"
    shift
    "$tool" -q -o "Dir::Etc::SourceList=$home/sources" -o "Dir::Etc::SourceParts=$home/parts" \
        -o "Dir::State::Lists=$home/lists" -o "Dir::Cache=$home/cache" -o "Dir::State::status=/dev/null" \
        -o "APT::Architecture=amd64" -o "APT::Sandbox::User=$(id -un)" "$@"
}

# unpack NAME SUITE PACKAGE...: the packages and all they need, under FOLDER/NAME, which appears only when it is whole.
unpack() {
    local name="$1" from="$2"
    shift 2
    [[ ! -e "$folder/$name/.whole" ]] || return 0
    echo "fetch_device_tools: $* from $from" >&2
    rm -rf "${folder:?}/$name" "$folder/apt-$name"
    mkdir -p "$folder/$name"
    apt_in "$name" "$from" apt-get update >/dev/null
    local needed
    needed="$(apt_in "$name" "$from" apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts \
        --no-breaks --no-replaces --no-enhances "$@" | grep -E '^[a-z0-9]' | sort -u)"
    # shellcheck disable=SC2086 -- one word each
    (cd "$folder/apt-$name" && apt_in "$name" "$from" apt-get download $needed >/dev/null)
    local package
    for package in "$folder/apt-$name"/*.deb; do dpkg-deb -x "$package" "$folder/$name"; done
    rm -rf "$folder/apt-$name"
    touch "$folder/$name/.whole"
}

unpack trixie trixie adbd qemu-user
# The package has an emulator for every processor, 400 MB of them.
find "$folder/trixie/usr/bin" -name 'qemu-*' ! -name qemu-aarch64 -delete
unpack cross "${suite:-trixie}" adb $(command -v aarch64-linux-gnu-gcc >/dev/null || echo gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
echo "$folder"
