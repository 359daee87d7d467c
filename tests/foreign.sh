#!/bin/sh
# Fetch Debian's own client programs for other machines and of other releases, to be run under qemu.
#
#   foreign.sh ARCHITECTURE:RELEASE...
#
# Each goes to a folder ARCHITECTURE-RELEASE of its own in ~/.cache/pypcscd-tests/foreign (XDG_CACHE_HOME
# counts): the packages and all they depend on, unpacked and not installed. What is there is left as it
# is; remove it to have it fetched again. apt works on lists of its own, so that the machine's packages,
# sources and architectures stay as they are; root is not needed. For weeks after a point release some mirrors
# list libraries that they do not have; what those programs need besides libpcsclite is taken from forky then.
# Where something is missing it says so and goes on: the tests will tell.
set -eu

mirror=http://deb.debian.org/debian
keys=/usr/share/keyrings/debian-archive-keyring.gpg
cache=${XDG_CACHE_HOME:-$HOME/.cache}/pypcscd-tests/foreign

# fetch ARCHITECTURE RELEASE LIBRARIES: the release whose libraries are taken
fetch() {
    architecture=$1
    release=$2
    libraries=$3
    apt="$work/apt"
    rm -rf "$apt" "$work/root"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/no-parts" "$work/root"
    : >"$apt/status"
    for source in $(printf '%s\n' "$release" "$libraries" | sort -u); do
        echo "deb [signed-by=$keys] $mirror $source main"
    done >"$apt/sources.list"
    cat >"$apt/preferences" <<EOF
Package: *
Pin: release n=$libraries
Pin-Priority: 600

Package: pcsc-tools src:opensc src:pcsc-lite
Pin: release n=$release
Pin-Priority: 700
EOF
    cat >"$apt/conf" <<EOF
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::State "$apt";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt";
Dir::Cache::archives "$apt/archives";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "$apt/preferences";
Dir::Etc::preferencesparts "$apt/no-parts";
Debug::NoLocking "true";
EOF
    export APT_CONFIG="$apt/conf"
    # pcsc-tools depends on Perl and GTK for programs that are not needed: it is taken alone
    apt-get -qq update </dev/null &&
        apt-get -qqy --download-only install opensc libpcsclite1 </dev/null >/dev/null &&
        (cd "$apt/archives" && apt-get -qq download pcsc-tools </dev/null) || return 1
    for package in "$apt"/archives/*.deb; do
        dpkg-deb -x "$package" "$work/root" || return 1
    done
    rm -rf "$apt" "$work/root/usr/share"
}

one() {
    architecture=${1%:*}
    release=${1#*:}
    folder=$cache/$architecture-$release
    if [ -d "$folder" ]; then
        return
    fi
    for needed in apt-get dpkg-deb $keys; do
        if ! command -v "$needed" >/dev/null && [ ! -e "$needed" ]; then
            echo "== no $needed here: the clients of $1 will not be tested"
            return
        fi
    done
    echo "== fetching Debian's client programs for $1"
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/.new.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    for libraries in "$release" forky; do
        if fetch "$architecture" "$release" "$libraries"; then
            mv -T "$work/root" "$folder"
            return
        fi
        echo "== the client programs for $1 could not be fetched with libraries of $libraries"
    done
}

for wanted in "$@"; do
    # side by side: most of the time goes into reading lists of packages
    (one "$wanted") &
done
wait
