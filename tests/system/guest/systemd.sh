# PID 1 of the test VM with systemd: makes this machine's configuration one that starts quickly and has
# nothing of its own, then becomes systemd. The jobs run in a unit, once the system is up.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
etc=/etc/systemd
lib=/lib/systemd

# where the tests run in a container, this says so to whoever looks at the root
rm -f /.dockerenv /run/.containerenv

rm -rf $etc/system $etc/system-generators /etc/reader.conf.d
mkdir -p $etc/system $etc/system-generators $etc/journald.conf.d /etc/reader.conf.d
mask() {
    for unit in "$@"; do ln -sf /dev/null "$etc/system/${unit##*/}"; done
}

# Of what belongs to every system only this.
for unit in $lib/system/sysinit.target.wants/*; do
    case "${unit##*/}" in
    systemd-journald.service | systemd-udevd.service | systemd-udev-trigger.service) ;;
    *) mask "$unit" ;;
    esac
done
# These come by other ways than a target's wishes.
mask systemd-remount-fs.service systemd-initctl.socket systemd-journald-audit.socket systemd-logind.service \
    systemd-update-utmp-runlevel.service proc-sys-fs-binfmt_misc.automount tmp.mount
for generator in $lib/system-generators/* /usr/local/lib/systemd/system-generators/*; do
    ln -sf /dev/null "$etc/system-generators/${generator##*/}"
done
# Only USB devices matter.
mkdir -p $etc/system/systemd-udev-trigger.service.d
cat >$etc/system/systemd-udev-trigger.service.d/usb.conf <<END
[Service]
ExecStart=
ExecStart=udevadm trigger --type=devices --action=add --subsystem-match=usb
END
cat >$etc/journald.conf.d/test.conf <<END
[Journal]
Storage=volatile
RateLimitIntervalSec=0
END
cat >$etc/system/jobs.service <<END
[Unit]
Description=Commands of the tests
After=basic.target dbus.socket

[Service]
ExecStart=/bin/sh /job/jobs.sh
ExecStopPost=/bin/sh -c 'reboot -f'
# also what a job leaves behind is its own business
KillMode=process
END
cat >$etc/system/default.target <<END
[Unit]
Description=A system for the tests
Requires=basic.target
Wants=dbus.socket jobs.service
END
echo 0123456789abcdef0123456789abcdef >/etc/machine-id
ip link set lo up 2>/dev/null || busybox ip link set lo up
# The virtual host controller has one timer for all its ports: of devices that resume at the same time, it
# loses some. So none is suspended.
echo -1 >/sys/module/usbcore/parameters/autosuspend

exec $lib/systemd --show-status=0
