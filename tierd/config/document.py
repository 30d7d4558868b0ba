"""From TOML to values: unknown keys, wrong types, missing keys and unreadable values, all of them at once.

What it returns is a draft: every value that could be read, so that the checks across sections can go on.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tierd.config import keys
from tierd.config.fault import Faults
from tierd.config.keys import Key
from tierd.config.values import type_name
from tierd.config.webhook_values import SECRET_HINT
from tierd.errors import InvalidRequest
from tierd.model.tier import TierKind

# Values are of the types that the readers in `keys` return; they meet the dataclasses' fields in `build`.
Values = dict[str, Any]

ROLES = ("read", "warm", "admin")
_DIGEST = re.compile(r"[0-9A-Fa-f]{64}")
_SECRET = re.compile(r"secret|access_?key|session_?token|passw(or)?d|^token$|^keys?$", re.IGNORECASE)
_SECRET_HINT = (
    "Put the keys into an AWS credentials file that only the daemon can read, and name it by "
    '`credentials = "/etc/tierd/s3-credentials"`; or name a systemd credential by `credentials = "systemd:NAME"`.'
)
_AT_LINE = re.compile(r" \(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)$")


@dataclass(kw_only=True)
class Draft:
    """One tier, dataset, schedule or webhook as far as it could be read.

    Attributes:
        where: how faults name it, `tiers[hdd]`, or `tiers[#2]` when it has no usable name.
        s3, prices: of an S3 tier: its own settings.
        policy: of a dataset: its own rules, to be laid over the defaults and what its phase sets.
    """

    where: str
    values: Values
    s3: Values = field(default_factory=dict)
    prices: Values = field(default_factory=dict)
    policy: Values = field(default_factory=dict)

    @property
    def name(self) -> str | None:
        return self.values.get("name")

    @property
    def is_s3(self) -> bool:
        return self.values.get("kind") is TierKind.S3


@dataclass(kw_only=True)
class Document:
    """A whole file as far as it could be read; keys are attribute names of the settings."""

    top: Values = field(default_factory=dict)
    tiers: list[Draft] = field(default_factory=list)
    datasets: list[Draft] = field(default_factory=list)
    schedules: list[Draft] = field(default_factory=list)
    webhooks: list[Draft] = field(default_factory=list)
    defaults: Values = field(default_factory=dict)
    sections: dict[str, Values] = field(default_factory=dict)


def parse_toml(path: Path, faults: Faults) -> dict[str, object] | None:
    """Read the file; None, and one fault, when it cannot be read or is no TOML."""
    text = ""
    try:
        text = path.read_bytes().decode()
        return tomllib.loads(text)
    except OSError as error:
        instead = f"Create it from config.example.toml, or name another file ({error.__class__.__name__})."
        faults.add(str(path), f"cannot be read: {(error.strerror or str(error)).lower()}", instead)
    except UnicodeDecodeError as error:
        faults.add(str(path), f"byte {error.start} is not UTF-8 text", "Save the file as UTF-8.")
    except RecursionError:
        faults.add(str(path), "lists are nested too deeply", "No key needs nested lists.")
    # tomllib also raises a plain ValueError, for numbers with thousands of digits.
    except ValueError as error:
        faults.add(*_syntax_fault(path, text, str(error)))
    return None


def _syntax_fault(path: Path, text: str, message: str) -> tuple[str, str, str]:
    """Name the line of what tomllib complains about, where it says it."""
    place = _AT_LINE.search(message)
    key, column = str(path), ""
    if place:
        key = f"line {place[1] or max(1, len(text.splitlines()))}"
        column = f" (column {place[2]})" if place[2] else " (at the end)"
    reason = _AT_LINE.sub("", message)
    instead = "Correct the line; text needs quotes, and a key or table may appear only once."
    return key, f"not valid TOML: {reason[:1].lower()}{reason[1:]}{column}", instead


def read_document(raw: dict[str, object], faults: Faults) -> Document:
    """Read every section of a parsed file."""
    document = Document()
    scalars = {key: value for key, value in raw.items() if key not in keys.SECTIONS}
    document.top = _read_table(scalars, keys.TOP, "", faults)
    document.tiers = [_read_tier(table, where, faults) for where, table in _entries(raw, "tiers", faults)]
    document.datasets = [_read_dataset(table, where, faults) for where, table in _entries(raw, "datasets", faults)]
    if not document.tiers and "tiers" not in raw:
        instead = "Add a [[tiers]] table with name, root and rank for the flash (rank 0) and one for the HDD (rank 1)."
        faults.add("tiers", "there is none", instead)
    for where, table in _entries(raw, "schedules", faults):
        read = _read_table(table, keys.SCHEDULE, where, faults, "schedules")
        document.schedules.append(Draft(where=where, values=read))
    for where, table in _entries(raw, "webhook", faults):
        read = _read_table(table, keys.WEBHOOK, where, faults, "webhook")
        document.webhooks.append(Draft(where=where, values=read))
    document.defaults = _read_table(_table(raw, "defaults", faults), keys.POLICY, "defaults", faults)
    for section in ("api", "mover", "observe", "value", "quiet", "log"):
        table = _table(raw, section, faults)
        document.sections[section] = _read_table(table, keys.SECTIONS[section], section, faults)
        if section == "api":
            document.sections["api"]["tokens"] = _read_tokens(_table(table, "tokens", faults, "api."), faults)
    return document


def _read_tier(table: dict[str, object], where: str, faults: Faults) -> Draft:
    kind = _kind(table, where, faults)
    table = _without_foreign(table, kind, where, faults)
    known = (*keys.TIER, *(keys.OF_KIND[kind] if kind is not None else ()))
    values = _read_table(table, known, where, faults, "tiers")
    own = {key.attribute for key in keys.S3}
    draft = Draft(where=where, values={name: value for name, value in values.items() if name not in own})
    if kind is TierKind.S3:
        draft.values["kind"] = kind
        draft.s3 = {name: value for name, value in values.items() if name in own}
        prices = _table(table, "prices", faults, f"{where}.")
        draft.prices = _read_table(prices, keys.PRICES, f"{where}.prices", faults, "tiers.prices")
    return draft


def _kind(table: dict[str, object], where: str, faults: Faults) -> TierKind | None:
    """Which kind of tier a table is meant to be; None where what it says is no kind, which is a fault of its own."""
    written = table.get("kind")
    if written is None and "bucket" in table and "root" not in table:
        faults.add(f"{where}.kind", "is missing, and the tier has a bucket", 'Add `kind = "s3"` to this table.')
        return TierKind.S3
    kinds: list[object] = list(TierKind)
    return TierKind.POSIX if written is None else TierKind(str(written)) if written in kinds else None


def _without_foreign(table: dict[str, object], kind: TierKind | None, where: str, faults: Faults) -> dict[str, object]:
    """Leave out the keys of other kinds of tiers; they are faults where the tier's own kind is known."""
    own: set[str] = set() if kind is None else {key.name for key in keys.OF_KIND[kind]}
    foreign = {key.name for of_it in keys.OF_KIND.values() for key in of_it} - own
    if kind is not TierKind.S3:
        foreign.add("prices")
    for written in table:
        if written in foreign and kind is TierKind.S3:
            instead = "Remove it: `bucket` and `prefix` say where its copies lie."
            faults.add(f"{where}.{written}", "is not for a tier of kind s3", instead)
        elif written in foreign and kind is TierKind.POSIX:
            instead = 'Remove it; or write `kind = "s3"`, and no root, if the tier is a bucket.'
            faults.add(f"{where}.{written}", "is only for tiers of kind s3", instead)
    return {written: value for written, value in table.items() if written not in foreign}


def _read_dataset(table: dict[str, object], where: str, faults: Faults) -> Draft:
    draft = Draft(where=where, values=_read_table(table, keys.DATASET, where, faults, "datasets"))
    inner = _table(table, "policy", faults, f"{where}.")
    draft.policy = _read_table(inner, keys.POLICY, f"{where}.policy", faults)
    return draft


def _read_table(
    table: dict[str, object], known: Sequence[Key], where: str, faults: Faults, section: str | None = None
) -> Values:
    by_name = {key.name: key for key in known}
    prefix = f"{where}." if where else ""
    found: Values = {}
    for written, value in table.items():
        key = by_name.get(written)
        if key is not None:
            try:
                found[key.attribute] = key.read(value)
            except InvalidRequest as error:
                faults.add(prefix + written, error.message, error.hint or "")
        elif section == "tiers" and _SECRET.search(written):
            faults.add(prefix + written, "is a secret, which does not belong in this file", _SECRET_HINT)
        elif section == "webhook" and _SECRET.search(written):
            faults.add(prefix + written, "is a secret, which does not belong in this file", SECRET_HINT)
        elif written not in keys.INNER.get(section or where, ()):
            faults.add(prefix + written, *_unknown(written, known, section or where))
    for key in known:
        if key.is_required and key.name not in table:
            faults.add(prefix + key.name, "is missing", f"Add `{key.name} = …` to this [[{section}]] table.")
    return found


def _unknown(written: str, known: Sequence[Key], section: str) -> tuple[str, str]:
    """Say which key or section was probably meant."""
    inner = keys.INNER.get(section, ())
    here = [key.name for key in known] + list(inner) + ([] if section else list(keys.SECTIONS))
    near = difflib.get_close_matches(written, here, n=1)
    if near:
        return "is an unknown key", f"Did you mean `{near[0]}`?"
    homes = [name for name, of_it in keys.SECTIONS.items() if written in {key.name for key in of_it}]
    if written in {key.name for key in keys.TOP}:
        return "does not belong here", f"Write `{written}` at the top of the file, before the first [table]."
    if homes:
        listed = " or ".join(f"[[{home}]]" if home in keys.LISTED else f"[{home}]" for home in homes)
        return "does not belong here", f"Write `{written}` in {listed}."
    return "is an unknown key", f"Remove it; known here: {', '.join(sorted(here))}."


def _entries(raw: dict[str, object], section: str, faults: Faults) -> Iterator[tuple[str, dict[str, object]]]:
    """The tables of an array of tables, each with the name that faults use for it."""
    listed = raw.get(section, [])
    instead = f"Begin each entry with [[{section}]] in double brackets, and name it by `name = …`."
    if not isinstance(listed, list):
        faults.add(section, f"is {type_name(listed)}, not a list of tables", instead)
        return
    seen: set[str] = set()
    for number, entry in enumerate(listed, 1):
        if not isinstance(entry, dict):
            faults.add(f"{section}[#{number}]", f"is {type_name(entry)}, not a table", instead)
            continue
        name = entry.get("name")
        is_usable = isinstance(name, str) and name.isprintable() and 0 < len(name) <= 100
        if is_usable and name in seen:
            faults.add(f"{section}[#{number}].name", f"{name!r} is used twice", "Give every entry a name of its own.")
        where = f"{section}[{name}]" if is_usable and name not in seen else f"{section}[#{number}]"
        if is_usable:
            seen.add(str(name))
        yield where, entry


def _table(raw: dict[str, object], name: str, faults: Faults, prefix: str = "") -> dict[str, object]:
    table = raw.get(name, {})
    if isinstance(table, dict):
        return table
    shown = {"policy": "[datasets.policy]", "prices": "[tiers.prices]"}.get(name, f"[{prefix}{name}]")
    faults.add(prefix + name, f"is {type_name(table)}, not a table", f"Write {shown} in single brackets.")
    return {}


def _read_tokens(table: dict[str, object], faults: Faults) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for number, (digest, role) in enumerate(table.items(), 1):
        # What is no digest or no role may be the token itself: it must never reach a screen or a log.
        where = f"api.tokens[#{number}]"
        if _DIGEST.fullmatch(digest) is None:
            instead = 'Write what `printf %s "$TOKEN" | sha256sum` prints, never the token itself.'
            faults.add(where, "is not 64 hexadecimal digits (it is not shown: it may be a token)", instead)
        elif digest.lower() in tokens:
            faults.add(where, "is there twice", "Remove one of the two lines.")
        if not isinstance(role, str) or role not in ROLES:
            faults.add(where, "its value is not a role", 'Write "SHA-256 of the token" = "read", "warm" or "admin".')
        else:
            tokens[digest.lower()] = role
    return tokens
