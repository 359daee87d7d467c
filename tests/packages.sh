#!/bin/sh
# Install the Debian packages that the demo or the tests need, as far as they are missing.
#
#   packages.sh demo|test
#
# As root directly, otherwise with sudo. Where neither is possible it names what is missing; it fails
# if nothing can be built without it, and goes on if only some client programs will not be tested.
set -eu

# The interpreter's own parts, where the interpreter is Debian's.
python='python3-venv'
# To build: the bridge to native drivers, pyscard, and the C clients of the tests.
build='gcc libc6-dev python3-dev libpcsclite-dev pkg-config'
# Client programs, native drivers and emulators that the tests run. pcscd is the daemon that we are
# compared with.
programs='pcscd libccid pcsc-tools opensc libpcsc-perl vsmartcard-vpcd vsmartcard-vpicc util-linux g++ make
bubblewrap openssh-client libwrap0 qemu-user-static tshark systemd dbus-daemon polkitd groff-base man-db'
# The tests of forwarded sockets need sshd. Its package would start it, and enable it for every boot: so
# only its program is taken, into this directory, together with the library that it needs, libwrap0.
unpacked=$(cd "$(dirname "$0")/.." && pwd)/.programs
# The machine with a USB stack, tests/system; its kernel is downloaded by the tests, not installed.
machine='qemu-system-x86 busybox-static udev systemd dbus'

missing() {
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || printf '%s ' "$package"
    done
}

# Fetch the package of sshd and take it apart; nothing of it is installed.
unpack_sshd() {
    echo "== unpacking openssh-server into $unpacked: the tests run its sshd, on a loopback port of their own;"
    echo '== it is neither installed nor started nor enabled'
    mkdir -p "$unpacked" && cd "$unpacked" || return
    apt-get -q download openssh-server </dev/null && dpkg-deb -x openssh-server_*.deb . && rm openssh-server_*.deb
}

required=''
optional=''
unpack=''
python3=${PYTHON:-python3}
if command -v "$python3" >/dev/null && ! "$python3" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "== $("$python3" --version) is too old, 3.11 is needed; name another with make PYTHON=python3.11"
    exit 1
fi
if ! "$python3" -c 'import ensurepip, venv' 2>/dev/null; then
    required=$python
fi
if [ "$1" = test ]; then
    if command -v dpkg-query >/dev/null; then
        required="$required $(missing $build)"
        optional=$(missing $programs $machine)
    else
        echo '== this is not a Debian system; install yourself:' $build $programs $machine a JDK, node, npm
    fi
    # Any JDK from 17 on and any node that has its headers will do, wherever they come from.
    command -v javac >/dev/null || optional="$optional default-jdk-headless"
    if ! command -v node >/dev/null; then
        optional="$optional nodejs libnode-dev"
    elif [ ! -e "$(dirname "$(readlink -f "$(command -v node)")")/../include/node/node.h" ]; then
        optional="$optional libnode-dev"
    fi
    command -v npm >/dev/null || optional="$optional npm"
    if [ ! -x /usr/sbin/sshd ] && [ ! -x "$unpacked/usr/sbin/sshd" ]; then
        unpack=openssh-server
    fi
fi

set -- $required $optional
if [ $# -eq 0 ] && [ -z "$unpack" ]; then
    exit 0
fi

if [ "$(id -u)" = 0 ]; then
    as_root=''
elif command -v sudo >/dev/null; then
    as_root='sudo'
else
    as_root='none'
fi
if [ "$as_root" = none ] || ! command -v apt-get >/dev/null; then
    echo "== these packages are missing and cannot be installed from here (no root, no sudo or no apt): $* $unpack"
    if [ -n "${required# }" ]; then
        exit 1
    fi
    echo '== going on: the tests of the programs in them will be skipped'
    exit 0
fi

$as_root apt-get -q update </dev/null
if [ $# -gt 0 ]; then
    echo "== installing with apt-get${as_root:+ and $as_root}: $*"
    case " $* " in
    *' pcscd '*)
        echo '== pcscd is among them because the tests compare with it, in a private namespace. Where systemd'
        echo '== runs, its package starts it and enables its socket, as always; the tests do not use that one.'
        echo '== To be without it: systemctl disable --now pcscd.socket pcscd.service'
        ;;
    esac
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install "$@" </dev/null
fi
if [ -n "$unpack" ] && ! unpack_sshd; then
    echo '== going on: the tests of forwarded sockets will be skipped'
fi
