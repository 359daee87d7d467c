"""An ssh server of its own on the loopback interface, and a client configured for it alone."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from harness import Background, client_env, free_ports, missing, need, need_root, wait_for

UNPACKED = Path(__file__).parents[2] / ".programs"
#: users who exist inside the server's namespace only: name -> number
USERS = {"anna": 12345, "ben": 12346}


def find_sshd() -> Path:
    found = shutil.which("sshd", path=f"/usr/sbin:/sbin:{UNPACKED}/usr/sbin")
    if found is None:
        missing("sshd is not there")
    return Path(found)


class Sshd(Background):
    """A server that lets in whoever has the key; runs in a mount namespace with users of its own."""

    def __init__(self, directory: Path, *options: str) -> None:
        need_root()
        need("ssh", "ssh-keygen", "unshare")
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
            pytest.skip("this machine lets nobody make a mount namespace")
        self.directory = directory
        self.port = free_ports(1)
        self._make_keys()
        self._write_client()
        program = find_sshd()
        (directory / "sshd_config").write_text(self._config(program, options))
        prefix = ["unshare", "--mount", "sh", "-ec", self._namespace(), "sh"]
        command = [*prefix, program, "-D", "-e", "-f", directory / "sshd_config"]
        super().__init__(command, directory / "sshd.log", client_env(None))
        wait_for(self._answers, "an ssh server that answers")

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"sshd has ended:\n{self.log}"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                return probe.recv(4) == b"SSH-"
        except OSError:
            return False

    def _make_keys(self) -> None:
        for name in ("host", "user"):
            path = self.directory / name
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        host_key = (self.directory / "host.pub").read_text()
        (self.directory / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}")

    def _config(self, program: Path, options: tuple[str, ...]) -> str:
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.directory}/host",
            f"AuthorizedKeysFile {self.directory}/user.pub",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            "StrictModes no",
            "PidFile none",
            "LogLevel VERBOSE",
            *options,
        ]
        # newer servers are made of several programs
        helpers = program.parents[1] / "lib" / "openssh"
        for option, name in (("SshdSessionPath", "sshd-session"), ("SshdAuthPath", "sshd-auth")):
            if (helpers / name).exists():
                lines.append(f"{option} {helpers / name}")
        return "\n".join(lines) + "\n"

    def _namespace(self) -> str:
        """What the server needs and must not change on this machine: users, and an empty directory."""
        users = {"root": 0, **USERS, "sshd": 12300}
        passwd = [f"{name}:x:{uid}:{uid}::{self.directory}:/bin/sh\n" for name, uid in users.items()]
        (self.directory / "passwd").write_text("".join(passwd))
        (self.directory / "shadow").write_text("".join(f"{name}:*:::::::\n" for name in users))
        return (
            f"mount --bind {self.directory}/passwd /etc/passwd; "
            f"mount --bind {self.directory}/shadow /etc/shadow; "
            'mount -t tmpfs none /run; mkdir /run/sshd; exec "$@"'
        )

    def _write_client(self) -> None:
        (self.directory / "ssh_config").write_text(
            "Host *\n"
            f"HostName 127.0.0.1\nPort {self.port}\nIdentityFile {self.directory}/user\n"
            f"IdentitiesOnly yes\nBatchMode yes\nUserKnownHostsFile {self.directory}/known_hosts\n"
        )
        programs = self.directory / "bin"
        programs.mkdir()
        wrapper = programs / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self.directory}/ssh_config "$@"\n')
        wrapper.chmod(0o755)

    @property
    def path(self) -> str:
        """A PATH on which ``ssh`` is the client of this server, whatever host it is told."""
        return f"{self.directory}/bin:{os.environ['PATH']}"
