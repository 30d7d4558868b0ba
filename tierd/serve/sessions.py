"""What a browser keeps after signing in, and the proof that a form came from our own page.

A cookie is also sent to other services of the same host, so it holds no token: it names the token's digest and is
signed with a key of this daemon. The key lies beside the catalog, so that a restart signs nobody out.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from datetime import timedelta
from pathlib import Path

from tierd.serve.ports import Clock

COOKIE = "tierd_session"
LASTS = timedelta(hours=12)
_KEY_BYTES = 32


class Sessions:
    """Signs and checks. Thread-safe.

    Args:
        key_file: made when it is not there; where it cannot be, sessions end with the daemon.
    """

    def __init__(self, key_file: Path, clock: Clock) -> None:
        self._key, self._clock = _key(key_file), clock

    def cookie(self, token_digest: str) -> str:
        """A cookie for whoever showed the token of this digest."""
        content = f"{token_digest}.{int((self._clock() + LASTS).timestamp())}"
        return f"{content}.{self._sign('session', content)}"

    def token_digest(self, cookie: str) -> str | None:
        """The digest that a cookie was made for; None if it is not ours, or is over."""
        content, _, signature = cookie.rpartition(".")
        digest, _, ends = content.partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("session", content).encode()):
            return None
        return digest if self._clock().timestamp() < int(ends) else None

    def form_token(self, subject: str) -> str:
        """What a form of our page carries; other pages cannot know it."""
        return self._sign("form", subject)

    def is_form_token(self, token: str, subject: str) -> bool:
        """Whether a form came from a page that was made for this subject."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.form_token(subject).encode())

    def _sign(self, purpose: str, content: str) -> str:
        text = f"{purpose}:{content}".encode("utf-8", "surrogateescape")
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()


def _key(path: Path) -> bytes:
    made = secrets.token_bytes(_KEY_BYTES)
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileNotFoundError):
            kept = path.read_bytes()
            if len(kept) == _KEY_BYTES:  # a crash of the machine may have left an empty one
                return kept
        part = path.with_name(f"{path.name}.part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(made)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    return made
