"""Bundles of vendors' drivers: those that are installed, those that are made up, and any bytes at all."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pypcscd.hotplug.bundles import Bundle, BundleError, load_bundles, parse

DRIVERS = Path("/usr/lib/pcsc/drivers")
LIBCCID = Path("/etc/libccid_Info.plist")
PATH = Path("/drivers/ifd-x.bundle/Contents/Info.plist")

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
"""


def array(key: str, *texts: str) -> str:
    return (
        f"<key>{key}</key><array>\n" + "".join(f"<string>{text}</string>\n" for text in texts) + "</array>\n"
    )


def plist(*more: str, vendors: str = "", products: str = "", names: str = "") -> str:
    return (
        f"{HEAD}<dict>\n<key>CFBundleExecutable</key>\n<string>libx.so</string>\n"
        + (vendors or array("ifdVendorID", "0x076B", "04e6"))
        + (products or array("ifdProductID", "0x1021", "0x5410"))
        + (names or array("ifdFriendlyName", "ACME &amp; Sons 1", "SCR"))
        + "".join(more)
        + "</dict>\n</plist>\n"
    )


READERS = {(0x076B, 0x1021): "ACME & Sons 1", (0x04E6, 0x5410): "SCR"}


def parsed(text: str) -> Bundle:
    bundle, mistakes = parse(PATH, text.encode())
    assert mistakes == []
    return bundle


def make(directory: Path, name: str, text: str) -> None:
    contents = directory / name / "Contents"
    contents.mkdir(parents=True)
    (contents / "Info.plist").write_text(text)


# --- what is installed ------------------------------------------------------------------------


def need(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"{path} is not there; install libccid")


def test_the_installed_bundle_of_libccid() -> None:
    need(LIBCCID)
    bundles, mistakes = load_bundles([DRIVERS])
    assert mistakes == []
    (libccid,) = (bundle for bundle in bundles if bundle.path.parts[-3] == "ifd-ccid.bundle")
    assert libccid.library == DRIVERS / "ifd-ccid.bundle/Contents/Linux/libccid.so"
    assert libccid.library.exists()
    assert libccid.is_class_driver
    assert libccid.readers[0x08E6, 0x3437] == "Gemalto PC Twin Reader"


def test_both_ways_of_reading_find_the_same_in_it() -> None:
    need(LIBCCID)
    raw = LIBCCID.read_bytes()
    bundle, _ = parse(PATH, raw)
    products = raw.partition(b"<key>ifdProductID</key>")[2].partition(b"</array>")[0]
    assert len(bundle.readers) == products.count(b"<string>")
    without_end = raw.replace(b"</plist>", b"")
    assert parse(PATH, without_end) == (bundle, [])


# --- what can be read -------------------------------------------------------------------------


def test_a_driver_of_a_vendor() -> None:
    assert parsed(plist()) == Bundle(
        path=PATH,
        library=PATH.parent / os.uname().sysname / "libx.so",
        is_class_driver=False,
        readers=READERS,
    )


@pytest.mark.parametrize(("name", "is_class"), [("CCIDCLASSDRIVER", True), ("ACME", False), ("", False)])
def test_class_drivers_say_so(name: str, is_class: bool) -> None:
    assert parsed(plist(f"<key>CFBundleName</key><string>{name}</string>")).is_class_driver is is_class


def test_a_text_is_a_list_of_one() -> None:
    single = [
        f"<key>{key}</key>\n<string>{text}</string>"
        for key, text in (("ifdVendorID", "076B"), ("ifdProductID", "1"), ("ifdFriendlyName", "One"))
    ]
    assert parsed(plist(vendors=single[0], products=single[1], names=single[2])).readers == {
        (0x076B, 1): "One"
    }


def test_empty_texts_do_not_count() -> None:
    assert (
        parsed(plist(names=array("ifdFriendlyName", "", "ACME &amp; Sons 1", "", "SCR"))).readers == READERS
    )


def test_comments_do_not_count() -> None:
    text = plist("<!-- " + array("ifdVendorID", "1", "2") + " -->")
    assert parsed(text).readers == READERS
    assert parsed(text.replace("</plist>", "")).readers == READERS


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("</plist>", ""),
        lambda text: text.removeprefix(HEAD).replace("</plist>", ""),
        lambda text: text.replace("&amp;", "&"),
        lambda text: "# a comment, as pcscd has them\n" + text,
        lambda text: text.replace("</array>", "</arry>"),
    ],
)
def test_files_that_are_no_xml_are_read_as_pcscd_does(spoil: Callable[[str], str]) -> None:
    assert parsed(spoil(plist())).readers == READERS


def test_names_may_have_any_bytes() -> None:
    raw = plist().encode().replace(b"SCR", b"SCR \xff")
    bundle, _ = parse(PATH, raw)
    assert bundle.readers[0x04E6, 0x5410] == "SCR \udcff"


# --- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it has no ifdVendorID"),
        ("<plist><array/></plist>", "it has no ifdVendorID"),
        (plist().replace("ifdFriendlyName", "ifdName"), "it has no ifdFriendlyName"),
        (plist().replace("CFBundleExecutable", "Executable"), "it has no CFBundleExecutable"),
        (plist().replace("libx.so", ""), "CFBundleExecutable must have one value"),
        (plist().replace("libx.so", ".."), "CFBundleExecutable '..' is not the name of a file"),
        (
            plist(vendors=array("ifdVendorID", "1")),
            "it lists 1 ifdVendorID, 2 ifdProductID and 2 ifdFriendly",
        ),
    ],
)
def test_a_bundle_that_cannot_be_used(text: str, reason: str, tmp_path: Path) -> None:
    make(tmp_path, "a.bundle", text)
    make(tmp_path, "b.bundle", plist())
    bundles, mistakes = load_bundles([tmp_path])
    assert [bundle.readers for bundle in bundles] == [READERS], "the others are not hurt"
    (mistake,) = mistakes
    assert mistake.startswith(f"{tmp_path}/a.bundle/Contents/Info.plist: {reason}")
    assert mistake.endswith("; the driver is not used")


@pytest.mark.parametrize("number", ["x", "-1", "0x10000", "O76B"])
def test_a_reader_that_cannot_be_used(number: str) -> None:
    bundle, mistakes = parse(PATH, plist(vendors=array("ifdVendorID", number, "04E6")).encode())
    assert bundle.readers == {(0x04E6, 0x5410): "SCR"}
    assert mistakes == [
        f"{PATH}: ACME & Sons 1: {number!r} is not a hexadecimal number up to FFFF; this reader is left out"
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.bundle").mkdir()
    (tmp_path / "b.bundle" / "Contents" / "Info.plist").mkdir(parents=True)
    make(tmp_path, "c.bundle", "x" * 1_000_001)
    bundles, mistakes = load_bundles([tmp_path])
    assert bundles == []
    reasons = [mistake.split(": ", 1)[1] for mistake in mistakes]
    assert [reason.split(";")[0] for reason in reasons] == [
        "No such file or directory",
        "Is a directory",
        "larger than 1000000 bytes",
    ]


def test_directories(tmp_path: Path) -> None:
    """What is missing is no mistake; what is no directory is one; names need only contain ``.bundle``."""
    first, second = tmp_path / "first", tmp_path / "second"
    make(first, "z.bundle.disabled", plist())
    make(first, "a.bundle", plist())
    make(first, "serial", plist())
    make(second, "a.bundle", plist())
    (tmp_path / "file").touch()
    bundles, mistakes = load_bundles([tmp_path / "none", second, tmp_path / "file", first])
    assert [str(bundle.path.relative_to(tmp_path).parents[1]) for bundle in bundles] == [
        "second/a.bundle",
        "first/a.bundle",
        "first/z.bundle.disabled",
    ]
    assert mistakes == [f"{tmp_path}/file: Not a directory; no drivers are taken from there"]


# --- anything ---------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *("<plist>", "</plist>", "<dict>", "</dict>", "<array>", "</array>", "<key>", "</key>"),
        *("<string>", "</string>", "<date>", "</date>", "<integer>", "</integer>", "<data>", "</data>"),
        *("<!--", "-->", "#", "\n", "&amp;", "&lt;", "<!ENTITY a 'b'>", "<?xml encoding='x'?>", "\0"),
        *("CFBundleExecutable", "ifdVendorID", "ifdProductID", "ifdFriendlyName", "0x1", "é", "libx.so"),
        array("ifdVendorID", "0x076B"),
        array("ifdProductID", "0x076B"),
        array("ifdFriendlyName", "0x076B"),
        "<key>CFBundleExecutable</key><string>libx.so</string>",
    ]
)


@given(st.binary(max_size=300) | st.lists(PIECES, max_size=40).map(lambda pieces: "".join(pieces).encode()))
@example(plist().encode())
@example(plist().encode("utf-16"))
@example(plist().replace("<string>SCR</string>", "<date>SCR</date>").encode())
@example(b"<plist><key>a</key></plist>")
@example(b"<plist></dict></plist>")
@example(b"bplist00" + bytes(40))
def test_any_bytes_make_a_bundle_or_our_own_error(raw: bytes) -> None:
    with contextlib.suppress(BundleError):
        bundle, mistakes = parse(PATH, raw)
        assert all(0 <= number <= 0xFFFF for key in bundle.readers for number in key)
        assert all(mistake.startswith(f"{PATH}: ") for mistake in mistakes)
