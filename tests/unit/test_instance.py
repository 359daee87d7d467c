"""One daemon per socket."""

import os
import socket
from pathlib import Path

import pytest

from pypcscd.server.instance import Instance, InstanceError
from pypcscd.server.listener import open_socket
from pypcscd.server.rules import SocketConfig


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pcscd" / "pcscd.comm"


def test_claim_and_release(path: Path) -> None:
    instance = Instance(path)
    instance.claim()
    with open_socket(SocketConfig(path)):
        assert path.stat().st_mode & 0o777 == 0o666
        assert path.with_suffix(".pid").read_text() == f"{os.getpid()}\n"
        instance.release()
    assert list(path.parent.iterdir()) == []
    instance.release()


def test_a_running_daemon_is_named_by_its_pid(path: Path) -> None:
    first = Instance(path)
    first.claim()
    with pytest.raises(InstanceError, match=rf"\(pid {os.getpid()}\) is already running on {path}"):
        Instance(path).claim()
    assert path.with_suffix(".pid").exists()
    first.release()


def test_a_daemon_without_our_lock_is_noticed_by_its_socket(path: Path) -> None:
    path.parent.mkdir()
    path.with_suffix(".pid").write_bytes(b"4711\n\0")
    with (
        open_socket(SocketConfig(path)),
        pytest.raises(InstanceError, match=r"\(pid 4711\) is already running"),
    ):
        Instance(path).claim()
    assert path.is_socket()
    assert path.with_suffix(".pid").read_bytes() == b"4711\n\0"


def test_what_a_dead_daemon_left_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    socket.socket(socket.AF_UNIX).close()
    open_socket(SocketConfig(path)).close()
    path.with_suffix(".pid").write_text("4711\n")
    instance = Instance(path)
    instance.claim()
    assert not path.exists()
    assert path.with_suffix(".pid").read_text() == f"{os.getpid()}\n"
    instance.release()


def test_a_file_in_the_way_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(InstanceError, match="is not a socket; remove it, or choose another path"):
        Instance(path).claim()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_directory_in_the_way(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(
        InstanceError, match=rf"^{path} is a directory; choose another path \(--socket, or path"
    ):
        Instance(path).claim()


def test_a_daemon_that_hangs_is_running(path: Path) -> None:
    """Its queue is full; connecting would wait for ever."""
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
        listening.bind(str(path))
        listening.listen(0)
        first.connect(str(path))
        with pytest.raises(InstanceError, match="a daemon is already running"):
            Instance(path).claim()
    assert path.is_socket()


@pytest.mark.parametrize(
    ("socket_name", "pid_name"),
    [("pcscd.comm", "pcscd.pid"), ("bank.1", "bank.1.pid"), ("bank", "bank.pid"), ("x.pid", "x.pid.pid")],
)
def test_the_name_of_the_pid_file(path: Path, socket_name: str, pid_name: str) -> None:
    instance = Instance(path.with_name(socket_name))
    instance.claim()
    assert [file.name for file in path.parent.iterdir()] == [pid_name]
    instance.release()


def test_sockets_that_differ_after_the_dot(path: Path) -> None:
    instances = [Instance(path.with_name(name)) for name in ("bank.1", "bank.2")]
    for instance in instances:
        instance.claim()
    for instance in instances:
        instance.release()
    assert list(path.parent.iterdir()) == []


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "pcscd.comm"
    with pytest.raises(InstanceError, match=rf"cannot serve {path}: .*; run as a user who"):
        Instance(path).claim()
