# shellcheck shell=bash
# Sourced by tests/fetch_*_tools.sh: Debian's packages of any suite, unpacked into a folder, without root and without installing
# anything. They come through apt from the mirror that this machine's own apt uses, into lists and caches of the folder's own.
#
#   packages_into FOLDER                  before the others: FOLDER is made, and what is missing here is said (exit 2)
#   unpack NAME SUITE PACKAGE...          the packages and all they need, under FOLDER/NAME
#   unpack_alone NAME SUITE PACKAGE...    the packages and nothing else
#
# FOLDER/NAME appears only when it is whole; what is there already is left alone.

packages_into() {
    folder="$1"
    mkdir -p "$folder"
    folder="$(cd "$folder" && pwd)"
    local tool
    for tool in apt-get apt-cache dpkg-deb; do
        command -v "$tool" >/dev/null || { echo "$0: no $tool; Debian or Ubuntu is needed for this" >&2; exit 2; }
    done
    [[ "$(dpkg --print-architecture)" == amd64 ]] || { echo "$0: only for amd64 machines" >&2; exit 2; }
    # "deb URI SUITE ..." lines and deb822's "URIs: URI" alike: the first mirror that ends in /debian, as a real one does.
    mirror="$(grep -rhoE '(https?|file)://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null |
        grep -vE '^#' | head -n 1 | tr -d ' ' || true)"
    [[ -n "$mirror" ]] || { echo "$0: no Debian mirror among apt's sources; found none that ends in /debian" >&2; exit 2; }
}

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

# unpacked HOW NAME SUITE PACKAGE...: HOW is `all` for what the packages need too, or `alone`.
unpacked() {
    local how="$1" name="$2" from="$3"
    shift 3
    [[ ! -e "$folder/$name/.whole" ]] || return 0
    echo "$0: $* from $from" >&2
    rm -rf "${folder:?}/$name" "$folder/apt-$name"
    mkdir -p "$folder/$name"
    apt_in "$name" "$from" apt-get update >/dev/null
    local needed="$*"
    if [[ "$how" == all ]]; then
        needed="$(apt_in "$name" "$from" apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts \
            --no-breaks --no-replaces --no-enhances "$@" | grep -E '^[a-z0-9]' | sort -u)"
    fi
    # shellcheck disable=SC2086 -- one word each
    (cd "$folder/apt-$name" && apt_in "$name" "$from" apt-get download $needed >/dev/null)
    local package
    for package in "$folder/apt-$name"/*.deb; do dpkg-deb -x "$package" "$folder/$name"; done
    rm -rf "$folder/apt-$name"
    touch "$folder/$name/.whole"
}

unpack() { unpacked all "$@"; }
unpack_alone() { unpacked alone "$@"; }
