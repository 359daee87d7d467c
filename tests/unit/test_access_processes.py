"""What the kernel tells about real processes: other groups, other root directories, other PID namespaces."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from pypcscd.server.access import Peer
from pypcscd.server.rules import AccessRule

#: connects, perhaps changes its root directory, says so, and stays until it is told to go
CLIENT = """
import os, socket, sys
path, *root = sys.argv[1:]
link = socket.socket(socket.AF_UNIX)
link.connect(path)
for directory in root:
    os.chroot(directory)
print("there", flush=True)
sys.stdin.read()
"""
#: accepts one connection and tells what it sees
SERVER = """
import socket, sys
from pypcscd.server.access import Peer
with socket.socket(socket.AF_UNIX) as listening:
    listening.bind(sys.argv[1])
    listening.listen()
    print("there", flush=True)
    peer = Peer(1)
    peer.identify(listening.accept()[0], with_groups=True)
    print(peer.pid, peer.is_elsewhere(), repr(peer.executable()))
"""

Connect = Callable[..., Peer]


def prefixed(*prefix: str) -> list[str]:
    """Skips where this machine does not let us."""
    if shutil.which(prefix[0]) is None or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip(f"{' '.join(prefix)} is not possible here")
    return list(prefix)


def in_new_namespaces(*kinds: str) -> list[str]:
    return prefixed("unshare", *kinds, *([] if os.geteuid() == 0 else ["--map-root-user"]))


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """A process that connects, as we see it."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(tmp_path / "socket"))
        (tmp_path / "socket").chmod(0o666)
        listening.listen()

        def start(*arguments: str | Path, prefix: Sequence[str] = ()) -> Peer:
            command = [*prefix, sys.executable, "-c", CLIENT, str(tmp_path / "socket"), *map(str, arguments)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.enter_context(process)
            assert process.stdin
            assert process.stdout
            stack.callback(process.stdin.close)
            assert process.stdout.readline() == b"there\n"
            connection, _ = listening.accept()
            stack.enter_context(connection)
            peer = Peer(1)
            peer.identify(connection, with_groups=True)
            assert peer.pid == process.pid
            return peer

        yield start


def test_groups_and_the_rule_for_them(connect: Connect) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may choose groups")
    prefix = prefixed("setpriv", "--regid=4294967294", "--groups=7,4294967290")
    peer = connect(prefix=prefix)
    assert peer.groups == {4294967294, 7, 4294967290}
    peer.uid = 1000
    assert AccessRule(groups=frozenset({4294967290})).allows(peer)
    assert not AccessRule(groups=frozenset({8})).allows(peer)


def test_numbers_of_users_have_no_sign(connect: Connect) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may be somebody else")
    # the checkout, and pytest's directories, may lie where nobody else may look
    rights = "-all,+dac_override"
    options = [f"--inh-caps={rights}", f"--ambient-caps={rights}", f"--bounding-set={rights}"]
    peer = connect(prefix=prefixed("setpriv", "--reuid=4294967294", *options))
    assert peer.uid == 4294967294
    assert AccessRule(users=frozenset({4294967294})).allows(peer)


def test_another_root_directory_is_elsewhere(connect: Connect, tmp_path: Path) -> None:
    peer = connect(tmp_path, prefix=in_new_namespaces("--mount"))
    assert peer.is_elsewhere()
    assert peer.executable() == str(Path(sys.executable).resolve())


def test_a_mount_namespace_with_our_root_is_here(connect: Connect) -> None:
    """A service with a /tmp of its own, say: its client library is the one of this system."""
    assert not connect(prefix=in_new_namespaces("--mount")).is_elsewhere()


def test_a_client_outside_of_our_pid_namespace_is_elsewhere(tmp_path: Path) -> None:
    """The daemon is in a container that shares its socket; the client's pid does not exist there."""
    prefix = in_new_namespaces("--pid", "--fork", "--mount-proc")
    command = [*prefix, sys.executable, "-c", SERVER, str(tmp_path / "socket")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "there\n"
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(tmp_path / "socket"))
            assert process.stdout.readline() == "0 True ''\n"
