"""Which files belong to a client socket."""

from pathlib import Path

import pytest

from pypcscd.paths import admin_path_of, pid_path_of, resolved


@pytest.mark.parametrize(
    ("socket", "pid_file"), [("pcscd.comm", "pcscd.pid"), ("bank.1", "bank.1.pid"), ("bank", "bank.pid")]
)
def test_the_pid_file_stands_beside_the_socket(socket: str, pid_file: str) -> None:
    assert pid_path_of(Path("/run/pcscd", socket)) == Path("/run/pcscd", pid_file)


def test_the_admin_socket_stands_beside_the_socket() -> None:
    assert admin_path_of(Path("/run/pcscd/pcscd.comm")) == Path("/run/pcscd/pcscd.admin")


def test_all_names_of_a_socket_are_one(tmp_path: Path) -> None:
    run, link = tmp_path / "run", tmp_path / "var"
    run.mkdir()
    link.symlink_to(run)
    assert resolved(link / "pcscd.comm") == resolved(run / "pcscd.comm") == run.resolve() / "pcscd.comm"
    # The last name is not followed: a socket is made there.
    (run / "pcscd.comm").symlink_to("other.comm")
    assert resolved(link / "pcscd.comm").name == "pcscd.comm"
