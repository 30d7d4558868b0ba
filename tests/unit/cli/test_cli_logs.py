"""What reaches the log's readers, whatever names and messages contain."""

from __future__ import annotations

import array
import json
import logging
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tierd.cli.journal import JournalHandler, is_journal
from tierd.cli.logs import JsonLines, PrefixLines, TextLines, fields_of

_HOSTILE = 'v1\n2026-01-01 error transfer=9\x1b[2J\r\nPRIORITY=0 "x" \udcff'


def _record(message: str = _HOSTILE, *, trace: bool = False, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("tierd.x", logging.WARNING, "/x.py", 7, "%s", (message,), None, "f")
    vars(record).update(extra)
    if trace:
        try:
            raise ValueError(_HOSTILE)
        except ValueError as error:
            record.exc_info = (type(error), error, error.__traceback__)
    return record


class Journal:
    """A real datagram socket, read as journald reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(30)
        self.files = 0

    def entry(self) -> list[tuple[str, str]]:
        data, ancillary, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        if ancillary:
            self.files += 1
            fd = array.array("i", ancillary[0][2])[0]
            with os.fdopen(fd, "rb") as file, mmap.mmap(fd, 0, prot=mmap.PROT_READ) as content:
                with pytest.raises(OSError, match="not permitted"):
                    os.ftruncate(file.fileno(), 0)
                data = content[:]
        found = []
        while data:
            head, _, rest = data.partition(b"\n")
            if b"=" in head:
                key, _, value = head.partition(b"=")
            else:
                key, (size,) = head, struct.unpack("<Q", rest[:8])
                value, rest = rest[8 : 8 + size], rest[9 + size :]
            found.append((key.decode(), value.decode()))
            data = rest
        return found


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal")
    yield journal
    journal.socket.close()


@pytest.fixture
def handler(journal: Journal) -> Iterator[JournalHandler]:
    handler = JournalHandler(fields_of, fall_back=logging.NullHandler(), path=journal.path)
    yield handler
    handler.close()


def test_an_entry_of_the_journal_has_its_fields_once_whatever_the_message_says(
    journal: Journal, handler: JournalHandler
) -> None:
    handler.handle(_record(transfer=7, snapshot=f"ds/{_HOSTILE}", event="transfer.failed", secret="no field of ours"))
    entry = journal.entry()
    fields = dict(entry)
    assert len(fields) == len(entry)
    assert (fields["PRIORITY"], fields["TIERD_TRANSFER"], fields["TIERD_EVENT"]) == ("4", "7", "transfer.failed")
    shown = _HOSTILE.replace("\udcff", "\\udcff")
    assert (fields["MESSAGE"], fields["TIERD_SNAPSHOT"]) == (shown, f"ds/{shown}")
    assert (fields["CODE_FILE"], fields["CODE_LINE"], fields["CODE_FUNC"]) == ("/x.py", "7", "f")
    assert "no field of ours" not in fields.values()


def test_a_traceback_is_part_of_its_entry(journal: Journal, handler: JournalHandler) -> None:
    handler.handle(_record("unexpected", trace=True))
    assert dict(journal.entry())["MESSAGE"].startswith("unexpected\nTraceback (most recent call last)")


def test_an_entry_too_large_for_a_datagram_arrives_whole_in_a_sealed_file(
    journal: Journal, handler: JournalHandler
) -> None:
    handler.handle(_record("x" * 2_000_000))
    assert dict(journal.entry())["MESSAGE"] == "x" * 2_000_000
    assert journal.files == 1


def test_without_a_journal_the_record_goes_to_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    stderr = logging.StreamHandler(sys.stderr)
    stderr.setFormatter(PrefixLines())
    handler = JournalHandler(fields_of, fall_back=stderr, path=tmp_path / "none")
    handler.handle(_record("said", transfer=7))
    handler.close()
    assert capsys.readouterr().err == "<4>said transfer=7\n"


def test_only_the_stream_that_systemd_named_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as named, (tmp_path / "b").open("w") as other:
        found = os.fstat(named.fileno())
        environment = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_journal(named, environment)
        assert not is_journal(other, environment)
        assert not is_journal(named, {})


def test_json_is_one_object_a_line_that_strict_readers_take() -> None:
    line = JsonLines().format(_record(transfer=7, snapshot=_HOSTILE, trace=True))
    assert "\n" not in line
    entry = json.loads(line)
    assert (entry["level"], entry["transfer"]) == ("warning", 7)
    assert entry["message"] == entry["snapshot"] == _HOSTILE.replace("\udcff", "\\udcff")
    assert "Traceback" in entry["trace"]


@pytest.mark.parametrize("formatter", [TextLines(has_colour=False), PrefixLines()])
def test_a_hostile_name_is_one_printable_line_and_forges_no_field(formatter: logging.Formatter) -> None:
    line = formatter.format(_record(transfer=7, snapshot=_HOSTILE))
    assert line.isprintable()
    before, quote, _ = line.partition('"')
    assert quote
    assert "transfer=" not in before
    assert line.count(" transfer=7 ") == 1


def test_lines_of_a_traceback_are_indented() -> None:
    first, *others = TextLines(has_colour=False).format(_record("unexpected", trace=True)).split("\n")
    assert first.endswith("unexpected")
    assert others
    assert all(line.startswith("    | ") and line.isprintable() for line in others)
