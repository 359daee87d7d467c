"""[[socket]], [[client]] and [clients] in the settings file, and how mistakes in them are named."""

import os
import re
import socket
from pathlib import Path

import pytest

from pypcscd.configuration.config import DEFAULT_SOCKET, Config
from pypcscd.configuration.settings_file import SettingsError, load
from pypcscd.server.rules import EVERYBODY, AccessRule, ClientRule, SocketConfig

OWN = SocketConfig(DEFAULT_SOCKET)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pypcscd.toml"


def loaded(path: Path, text: str, config: Config | None = None) -> Config:
    path.write_text(text)
    return load(path, config or Config())


# --- what is read -----------------------------------------------------------------------------


def test_a_socket_with_everything(path: Path) -> None:
    text = """
[[socket]]
path = "/run/pcscd/bank.comm"
readers = ["SIM bank *", "Other [CCID] ?? 00"]
table_size = 48
short_names = true
users = ["root", 1000]
groups = ["root", 4294967294]
mode = "0660"
owner = "root"
group = 7
"""
    config = loaded(path, text)
    assert config.sockets == (
        OWN,
        SocketConfig(
            Path("/run/pcscd/bank.comm"),
            readers=("SIM bank *", "Other [[]CCID] ?? 00"),
            table_size=48,
            has_short_names=True,
            access=AccessRule(frozenset({0, 1000}), frozenset({0, 4294967294})),
            mode=0o660,
            owner=0,
            group=7,
            origin=f"{path}:2",
        ),
    )


def test_a_socket_with_a_path_only(path: Path) -> None:
    text = "socket = [\n{path = '/a'},\n{path = '/b/../c'},\n]\n"
    config = loaded(path, text)
    assert config.sockets[1:] == (
        SocketConfig(Path("/a"), origin=f"{path}:2"),
        SocketConfig(Path("/c"), origin=f"{path}:3"),
    )
    assert config.sockets[1].access is not None
    assert config.sockets[1].access.is_open


def test_an_empty_list_is_not_the_same_as_none(path: Path) -> None:
    """It lets nobody in but root, as it says."""
    (_, closed) = loaded(path, "[[socket]]\npath = '/a'\nusers = []\n").sockets
    assert closed.access == AccessRule(users=frozenset())
    assert not closed.access.is_open


def test_the_own_socket_can_be_configured_too(path: Path, tmp_path: Path) -> None:
    """Its entry changes it, under any name of the file; it stays the first one."""
    (tmp_path / "link").symlink_to(tmp_path)
    own = SocketConfig(tmp_path / "pcscd.comm")
    text = f"""
[clients]
table_size = 48
[[socket]]
path = "/other"
[[socket]]
path = "{tmp_path}/link/pcscd.comm"
groups = ["root"]
readers = ["A*"]
"""
    config = loaded(path, text, Config(sockets=(own,)))
    access = AccessRule(groups=frozenset({0}))
    assert config.sockets == (
        own._replace(table_size=48, readers=("A*",), access=access, origin=f"{path}:6"),
        SocketConfig(Path("/other"), table_size=48, origin=f"{path}:4"),
    )


def test_the_table_size_of_all_sockets(path: Path) -> None:
    text = "clients.table_size = 48\n[[socket]]\npath = '/a'\n[[socket]]\npath = '/b'\ntable_size = 16\n"
    assert [socket.table_size for socket in loaded(path, text).sockets] == [48, 48, 16]


def test_client_rules_keep_their_order(path: Path) -> None:
    text = """
[[client]]
executable = "/app/*"
elsewhere = true
table_size = 48
[[client]]
user = "root"
short_names = true
[[client]]
elsewhere = false
"""
    assert loaded(path, text).client_rules == (
        ClientRule(table_size=48, executable="/app/*", is_elsewhere=True),
        ClientRule(has_short_names=True, uid=0),
        ClientRule(is_elsewhere=False),
    )


def test_nothing_said_is_everybody(path: Path) -> None:
    config = loaded(path, "")
    assert config.client_rules == ()
    assert config.sockets == (OWN,)
    assert OWN.access is EVERYBODY


def test_what_the_page_shows_is_right(path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    everything, fixed, banks = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    config = loaded(path, everything.replace('"anna"', '"root"').replace('"smartcard"', '"root"'))
    assert config.client_rules == (ClientRule(48, False, "/app/bin/*", 0, True),)
    assert config.sockets[1].access == AccessRule(frozenset({0, 1001}), frozenset({0}))
    assert [socket.readers for socket in loaded(path, banks).sockets[1:]] == [
        ("Virtual PCD 00 0?",),
        ("Virtual PCD 00 1?",),
    ]
    assert [rule.index for rule in loaded(path, fixed).usb_settings.rules] == [None, 1]
    message = re.search(r"^`(/etc/pypcscd.toml:14: users: there is no user .*)`$", page, re.MULTILINE)
    assert message is not None
    text = "[[socket]]\npath = '/a'\n" + "\n" * 10 + "users = [\n'ana']\n"
    with pytest.raises(SettingsError) as caught:
        loaded(path, text)
    assert str(caught.value) == message[1].replace("/etc/pypcscd.toml", str(path))


# --- mistakes ---------------------------------------------------------------------------------

TWO = "[[socket]] # [[socket]]\npath = '/a' # mode = 7\n\n[[socket]]\npath = '/b'\n"
LONG = "/" + 107 * "x"


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("[[sockets]]\npath = '/a'\n", 1, "sockets: unknown; there are clients, limits, power, reader, "),
        ("socket = '/a'\n", 1, "socket: write [[socket]], with two brackets, and its settings below"),
        ("[socket]\npath = '/a'\n", 1, "socket: write [[socket]], with two brackets"),
        ("socket = [\n  # the first\n  '/a'\n]\n", 3, "write [[socket]] and its settings below"),
        ("\n[[socket]]\nmode = '0600'\n", 2, "this [[socket]] has no path"),
        ("[[socket]]\npath = '/a'\n[[socket]]\n\n[power]\n", 3, "this [[socket]] has no path"),
        (TWO + "paths = 1\n", 6, "paths: unknown; there are path, readers, table_size, short_names, users"),
        (TWO + "access.users = 1\n", 6, "access: unknown; there are path"),
        (TWO + "[socket.access]\nusers = 1\n", 6, "access: unknown; there are path"),
        (TWO + '"mode" = 432\n', 6, 'mode: 432 is not a file mode in quotes, like "0660"'),
        (TWO + "mode = '0668'\n", 6, 'mode: "0668" is not a file mode in quotes, like "0660"'),
        (TWO + "mode = '01777'\n", 6, 'mode: "01777" is not a file mode'),
        ("[[socket]]\npath = 7\n", 2, "path: 7 is not a text in quotes"),
        ("[[socket]]\npath = ''\n", 2, 'path: "" is not a text in quotes'),
        ("[[socket]]\npath = 'bank'\n", 2, 'path: "bank" does not begin with /'),
        ('[[socket]]\npath = "/a\\u0000"\n', 2, "has characters that cannot be seen"),
        (f"[[socket]]\npath = '{LONG}'\n", 2, "has 107 bytes at most; this one has 108"),
        (TWO.replace("/b", "/./a"), 5, "path: /a is there already, at {file}:1"),
        (
            TWO.replace("/b", "/a.comm"),
            5,
            "path: the sockets /a.comm and /a would have the same pid file, /a.pid",
        ),
        (
            f"[[socket]]\npath = '{DEFAULT_SOCKET.with_suffix('')}'\n",
            2,
            "the same pid file, /run/pcscd/pcscd.pid",
        ),
        (TWO + "readers = 'A'\n", 6, 'readers: "A" is not a list; write ["A"]'),
        (TWO + "readers = []\n", 6, "readers: the list is empty"),
        (TWO + "readers = [\n'A',\n'',\n]\n", 8, 'readers: "" is not a text in quotes'),
        (TWO + "table_size = 17\n", 6, "table_size: 17 is neither 16 nor 48"),
        (TWO + "table_size = true\n", 6, "table_size: true is neither 16 nor 48"),
        (TWO + "table_size = '16'\n", 6, 'table_size: "16" is neither 16 nor 48'),
        (TWO + "users = 'root'\n", 6, 'users: "root" is not a list; write ["root"]'),
        (TWO + "users = [\n  'root', # ok\n  'nobody here'\n]\n", 8, 'users: there is no user "nobody here"'),
        (TWO + "users = [-1]\n", 6, "users: -1 is not the number of a user"),
        (TWO + "users = [4294967295]\n", 6, "users: 4294967295 is not the number of a user"),
        (TWO + "users = [1.5]\n", 6, "users: 1.5 is neither the name nor the number of a user"),
        (TWO + "groups = [true]\n", 6, "groups: true is neither the name nor the number of a group"),
        (TWO + "groups = ['no such']\n", 6, 'groups: there is no group "no such" on this machine'),
        (TWO + 'owner = "a\\u0000"\n', 6, "owner: there is no user"),
        (TWO + "owner = 99999999999\n", 6, "owner: 99999999999 is not the number of a user"),
        (TWO + "group = ''\n", 6, 'group: "" is neither the name nor the number of a group'),
        (TWO + "group = 1979-05-27\n", 6, "group: 1979-05-27 is neither the name nor the number"),
        ("[[client]]\n[[client]]\nexe = 'x'\n", 3, "exe: unknown; there are executable, user, elsewhere"),
        ("[[client]]\nelsewhere = 'yes'\n", 2, 'elsewhere: "yes" is neither true nor false'),
        ("[[client]]\nshort_names = 1\n", 2, "short_names: 1 is neither true nor false"),
        ("[[client]]\nuser = ['root']\n", 2, 'user: ["root"] is neither the name nor the number of a user'),
        ("client = [{elsewhere = true},\n{user = 'no such'}]\n", 2, 'user: there is no user "no such"'),
        ("[clients]\ntable_size = 32\n", 2, "table_size: 32 is neither 16 nor 48"),
        ("\nclients = {table_size = 32}\n", 2, "table_size: 32 is neither"),
        ("[[clients]]\ntable_size = 48\n", 1, "clients: write [clients] and its settings below"),
    ],
)
def test_mistakes_are_named_by_file_line_and_reason(path: Path, text: str, line: int, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(path, text)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert reason.format(file=path) in str(caught.value)


def test_the_longest_path_can_be_bound(path: Path, tmp_path: Path) -> None:
    name = tmp_path / "x"
    name = name.with_name("x" * (107 - len(os.fsencode(name)) + 1))
    config = loaded(path, f"[[socket]]\npath = '{name}'\n")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(config.sockets[1].path))
    with pytest.raises(SettingsError, match="107 bytes at most; this one has 108"):
        loaded(path, f"[[socket]]\npath = '{name}y'\n")
