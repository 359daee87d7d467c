"""The kernel and the first file system of the test VM.

The kernel is Debian's own: the package that ``linux-image-amd64`` depends on is downloaded, not
installed, and only what the VM needs of it is kept, in a cache outside the checkout.
"""

import fcntl
import lzma
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# In the order in which they are wanted; what these depend on is found in the modules themselves.
MODULES = ("virtio_mmio", "virtio_console", "9pnet_virtio", "9p", "overlay", "vhci_hcd")

# The host's / is the root, read-only, under a tmpfs that takes what the guest writes.
INIT = """\
#!/bin/sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
nine_p=trans=virtio,version=9p2000.L,msize=1048576
mount -t 9p -o $nine_p,cache=loose,ro host /lower
mount -t tmpfs none /over
mkdir /over/changes /over/work
mount -t overlay -o lowerdir=/lower,upperdir=/over/changes,workdir=/over/work none /root
mkdir -p /root/job
mount -t 9p -o $nine_p,cache=mmap job /root/job
for point in proc sys dev; do mount -o move /$point /root/$point; done
exec switch_root /root /bin/sh /job/init.sh
echo 'the first file system cannot start the guest'
"""


class UnavailableError(Exception):
    """Something that the VM needs is not here and cannot be fetched."""


@dataclass(frozen=True)
class Kernel:
    image: Path
    initramfs: Path


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "pypcscd-tests"


def prepare() -> Kernel:
    """The newest kernel in the cache; downloaded if there is none."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        found = sorted(cache.glob("linux-image-*/vmlinux"))
        folder = found[-1].parent if found else _fetch(cache)
        initramfs = folder / "initramfs"
        # written each time: it is quick, and busybox or the text above may have changed
        partial = initramfs.with_suffix(".new")
        partial.write_bytes(_initramfs(folder / "modules"))
        partial.rename(initramfs)
    return Kernel(folder / "vmlinux", initramfs)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*args: str | Path, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(args, cwd=cwd, capture_output=True, text=True, check=True, timeout=300)
    except FileNotFoundError as error:
        raise UnavailableError(f"{args[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise UnavailableError(f"{args}: {error.stdout}{error.stderr}") from error
    return done.stdout


def _fetch(cache: Path) -> Path:
    depends = re.search(r"Depends: (linux-image-\S+)", _run("apt-cache", "depends", "linux-image-amd64"))
    if not depends:
        raise UnavailableError("apt-cache knows no linux-image-amd64")
    name = depends[1]
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as temporary:
        work = Path(temporary)
        _run("apt-get", "-q", "download", name, cwd=work)
        (package,) = work.glob("*.deb")
        tree, out = work / "tree", work / name
        _run("dpkg-deb", "-x", package, tree)
        (image,) = tree.glob("boot/vmlinuz-*")
        out.mkdir()
        _keep_modules(tree, out / "modules")
        # last, because its presence says that all is there
        (out / "vmlinux").write_bytes(_uncompressed(image.read_bytes()))
        return out.rename(cache / name)


def _uncompressed(vmlinuz: bytes) -> bytes:
    """The ELF image inside: QEMU starts it directly, which saves the slow decompression in the guest."""
    start = vmlinuz.find(b"\xfd7zXZ\x00")
    if start < 0:
        raise UnavailableError("the kernel is not compressed with xz")
    return lzma.LZMADecompressor().decompress(vmlinuz[start:])


def _keep_modules(tree: Path, target: Path) -> None:
    files = {path.stem.replace("-", "_"): path for path in tree.glob("lib/modules/*/kernel/**/*.ko")}
    order: list[str] = []

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in order or name not in files:
            return  # what is not a file is built in
        depends = re.search(rb"(?<![a-z])depends=([^\0]*)", files[name].read_bytes())
        for needed in depends[1].decode().split(",") if depends else []:
            add(needed)
        order.append(name)

    for module in MODULES:
        add(module)
    target.mkdir()
    for name in order:
        shutil.copyfile(files[name], target / name)
    (target / "order").write_text("\n".join(order) + "\n")


def _initramfs(modules: Path) -> bytes:
    busybox = shutil.which("busybox")
    if busybox is None:
        raise UnavailableError("busybox is not installed")
    archive = Cpio()
    for folder in ("bin", "dev", "lower", "modules", "over", "proc", "root", "sys"):
        archive.add(folder, stat.S_IFDIR | 0o755)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("bin/busybox", stat.S_IFREG | 0o755, Path(busybox).read_bytes())
    archive.add("bin/sh", stat.S_IFLNK | 0o777, b"busybox")
    archive.add("init", stat.S_IFREG | 0o755, INIT.encode())
    archive.add_files("modules", modules.iterdir())
    return archive.finish()


class Cpio:
    """An archive in the "newc" format that the kernel unpacks."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._count = 0

    def add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._count += 1
        path = name.encode() + b"\0"
        # inode, mode, uid, gid, links, time, size, device, special device, length of the name, checksum
        fields = (self._count, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts += [_padded(header + path), _padded(data)]

    def add_files(self, folder: str, paths: Iterable[Path]) -> None:
        for path in paths:
            self.add(f"{folder}/{path.name}", stat.S_IFREG | 0o644, path.read_bytes())

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return b"".join(self._parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
