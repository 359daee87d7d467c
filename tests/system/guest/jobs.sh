# One command after the other: the host writes the name of a script in /job to a port, and reads the
# script's output and its exit status from there. Ports are found by name because only udev would give them
# names in /dev.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8

for port in /sys/class/virtio-ports/*; do
    if [ "$(cat "$port/name")" = jobs ]; then
        exec 3<>"/dev/${port##*/}"
    fi
done
echo ready >&3
while read -r job <&3; do
    setsid sh "/job/$job" </dev/null >&3 2>&1 3>&-
    status=$?
    printf '\n%s ended with %s\n' "$job" "$status" >&3
done
