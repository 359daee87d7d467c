#!/bin/sh
# Two virtual readers, no hardware, no root: list them, then ask the first card for a greeting.
# "make demo" calls this with pypcscd in the PATH.
set -eu

if [ "${1:-}" != inside ]; then
    exec pypcscd run --card hello --card sle4442 -- "$0" inside
fi

# What follows runs with a daemon of its own: any PC/SC program finds it by this variable.
echo "PCSCLITE_CSOCK_NAME=$PCSCLITE_CSOCK_NAME"

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

if command -v pcsc_scan >/dev/null; then
    show pcsc_scan -r
    show pcsc_scan -c
else
    printf '\n(pcsc_scan is not installed: Debian has it in pcsc-tools. Our own will do.)\n'
    show pypcscd scan
fi

printf '\nSelect the greeter on the first card, then ask it:\n'
show pypcscd apdu --reader 0 00A404000AA00000006203010C0601 00000000
