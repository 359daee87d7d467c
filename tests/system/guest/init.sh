# PID 1 of the test VM: the least that udev, libusb and the daemons need, then the jobs.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs -o mode=755 none /run
mount -t cgroup2 none /sys/fs/cgroup
ip link set lo up 2>/dev/null || busybox ip link set lo up
mkdir -p /run/pcscd /run/lock

# what is there already (root hubs) need not be announced again
/lib/systemd/systemd-udevd --daemon >/dev/null

# The virtual host controller has one timer for all its ports: of devices that resume at the same time, it
# loses some. So none is suspended.
echo -1 >/sys/module/usbcore/parameters/autosuspend

. /job/jobs.sh
reboot -f
