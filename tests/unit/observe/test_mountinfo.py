"""Mounts, as the kernel lists them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tierd.observe.mountinfo import Mount, mounts, unescape

# From proc_pid_mountinfo(5), and one with a space, a tab, a newline and a backslash in its name.
LISTED = rb"""36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
41 36 0:39 /sub /mnt/a\040b\011c\012d\134e rw,relatime - btrfs /dev/loop8 rw,subvolid=256,subvol=/sub
"""


def test_a_list_of_mounts() -> None:
    assert mounts(LISTED) == [
        Mount(36, b"98:0", b"/mnt2", b"ext3"),
        Mount(41, b"0:39", b"/mnt/a b\tc\nd\\e", b"btrfs"),
    ]


def test_the_kind_is_found_whatever_is_before_it() -> None:
    many = b"1 0 8:1 / /a rw shared:1 master:2 propagate_from:3 unbindable - xfs /dev/sda1 rw - x\n"
    none = b"2 0 8:1 / /a rw\n"
    assert [mount.kind for mount in mounts(many + none)] == [b"xfs", b""]


def test_what_cannot_be_read_is_left_out() -> None:
    assert mounts(b"") == []
    assert mounts(b"rubbish\n36 35\n" + LISTED[:20]) == []


@given(st.binary())
def test_rubbish_is_never_an_error(data: bytes) -> None:
    mounts(data)
    unescape(data)


@given(st.binary())
def test_every_name_comes_back(name: bytes) -> None:
    written = b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes([byte]) for byte in name)
    assert unescape(written) == name
