"""Who is at the other end of a socket, and which rules speak of them."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pypcscd.manager.manager import Manager
from pypcscd.protocol import ServerConnection
from pypcscd.server.access import Peer
from pypcscd.server.door import Door
from pypcscd.server.rules import AccessRule, ClientRule, SocketConfig


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


class Crowded:
    """A socket whose peer has more groups than getsockopt has room for."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        if option == 59:
            raise OSError(errno.ERANGE, "too many groups")
        return self._connection.getsockopt(level, option, length)


def test_the_peer_is_who_the_kernel_says(connection: socket.socket) -> None:
    peer = Peer(3)
    peer.identify(connection, with_groups=True)
    assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
    assert peer.groups == {*os.getgroups(), os.getgid()}
    assert str(peer).startswith("client 3 (")
    assert f"pid {os.getpid()}, uid {os.getuid()}" in str(peer)


def test_a_program_does_not_write_log_lines_by_its_name() -> None:
    code = (
        "import os, socket; from pypcscd.server.access import Peer; "
        "open('/proc/self/comm', 'w').write('a\\nERROR \\x1b[2J'); ours, theirs = socket.socketpair(); "
        "peer = Peer(1); peer.identify(ours, with_groups=False); print(ascii(str(peer)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("'client 1 (a?ERROR ?[2J, pid ")


def test_groups_are_asked_for_only_where_they_matter(connection: socket.socket) -> None:
    peer = Peer(1)
    peer.identify(connection, with_groups=False)
    assert peer.groups == frozenset()


def test_any_number_of_groups(connection: socket.socket) -> None:
    peer = Peer(1)
    peer.identify(Crowded(connection), with_groups=True)  # type: ignore[arg-type]
    assert peer.groups == {*os.getgroups(), os.getgid()}


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give itself groups")
def test_hundreds_of_groups() -> None:
    """In a process of its own, which is the peer and looks at it too."""
    wanted = range(1000, 1400)
    code = (
        "import os, socket; from pypcscd.server.access import Peer; "
        f"os.setgroups(range({wanted.start}, {wanted.stop})); ours, theirs = socket.socketpair(); "
        "peer = Peer(1); peer.identify(ours, with_groups=True); print(*peer.groups)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {int(group) for group in result.stdout.split()} == {*wanted, os.getgid()}


def test_the_program_and_its_root(connection: socket.socket) -> None:
    peer = Peer(1)
    peer.identify(connection, with_groups=False)
    assert peer.executable() == str(Path(sys.executable).resolve())
    assert not peer.is_elsewhere()


def test_a_process_that_is_gone_is_not_known() -> None:
    peer = Peer(1)
    peer.pid = 2**22 + 1  # beyond the largest that Linux gives
    assert peer.executable() == ""
    assert not peer.is_elsewhere()
    assert "unknown program" in str(peer)


def test_a_process_without_a_number_here_is_elsewhere() -> None:
    """The kernel says 0 for one outside of our PID namespace."""
    assert Peer(1).is_elsewhere()


class Somebody(Peer):
    """A peer as the rules see it."""

    def __init__(
        self,
        uid: int = 1000,
        groups: frozenset[int] = frozenset(),
        program: str = "/usr/bin/x",
        away: bool = False,
    ) -> None:
        super().__init__(1)
        self.uid, self.groups = uid, groups
        self._program, self._is_away = program, away

    def executable(self) -> str:
        return self._program

    def is_elsewhere(self) -> bool:
        return self._is_away


@pytest.mark.parametrize(
    ("rule", "peer", "allowed"),
    [
        (AccessRule(), Somebody(), True),
        (AccessRule(users=frozenset({1000})), Somebody(), True),
        (AccessRule(users=frozenset({1001})), Somebody(), False),
        (AccessRule(users=frozenset()), Somebody(), False),
        (AccessRule(users=frozenset()), Somebody(0), True),
        (AccessRule(groups=frozenset({7})), Somebody(groups=frozenset({6, 7})), True),
        (AccessRule(groups=frozenset({7})), Somebody(groups=frozenset({6})), False),
        (AccessRule(frozenset({1001}), frozenset({7})), Somebody(groups=frozenset({7})), True),
        (AccessRule(frozenset({1000}), frozenset({7})), Somebody(), True),
        (AccessRule(frozenset({1001}), frozenset({7})), Somebody(), False),
    ],
)
def test_access(rule: AccessRule, peer: Peer, allowed: bool) -> None:
    assert rule.allows(peer) is allowed


@pytest.mark.parametrize(
    ("rule", "peer", "matching"),
    [
        (ClientRule(), Somebody(), True),
        (ClientRule(uid=1000), Somebody(), True),
        (ClientRule(uid=0), Somebody(), False),
        (ClientRule(executable="/usr/bin/*"), Somebody(), True),
        (ClientRule(executable="/opt/*"), Somebody(), False),
        (ClientRule(executable="*"), Somebody(program=""), True),
        (ClientRule(is_elsewhere=True), Somebody(away=True), True),
        (ClientRule(is_elsewhere=True), Somebody(), False),
        (ClientRule(is_elsewhere=False), Somebody(), True),
        (ClientRule(is_elsewhere=False), Somebody(away=True), False),
        (ClientRule(uid=1000, executable="/usr/bin/x", is_elsewhere=True), Somebody(away=True), True),
        (ClientRule(uid=1000, executable="/usr/bin/y", is_elsewhere=True), Somebody(away=True), False),
    ],
)
def test_client_rules(rule: ClientRule, peer: Peer, matching: bool) -> None:
    assert rule.matches(peer) is matching


@pytest.mark.parametrize(
    ("rules", "table_size", "has_short_names"),
    [
        ((), 48, True),
        ((ClientRule(uid=1),), 48, True),
        ((ClientRule(table_size=16),), 16, True),
        ((ClientRule(has_short_names=False),), 48, False),
        (
            (ClientRule(uid=1), ClientRule(uid=1000, table_size=16), ClientRule(has_short_names=False)),
            16,
            True,
        ),
    ],
)
def test_the_first_rule_that_matches_wins_over_the_socket(
    rules: tuple[ClientRule, ...], table_size: int, has_short_names: bool
) -> None:
    config = SocketConfig(Path("/socket"), table_size=48, has_short_names=True)
    connection = ServerConnection()
    Door(Manager(), config, rules).adapt(connection, Somebody())
    assert (connection.table_size, connection.has_short_names) == (table_size, has_short_names)
