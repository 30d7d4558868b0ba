"""The same-origin rule."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from tierd.serve.headers import is_cross_site


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "same-origin", "origin": "http://tier:7411", "host": "tier:7411"},
        {"sec-fetch-site": "none"},
        {"origin": "http://Tier:7411", "host": "tier:7411"},
    ],
)
def test_programs_and_the_daemons_own_page_may_change_things(headers: dict[str, str]) -> None:
    assert not is_cross_site("POST", Headers(headers))


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example", "host": "tier:7411"},
        {"origin": "http://tier:80", "host": "tier:7411"},
        {"origin": "null", "host": "tier:7411"},
        {"origin": "", "host": "tier:7411"},
    ],
)
def test_pages_of_others_may_not(headers: dict[str, str]) -> None:
    assert is_cross_site("DELETE", Headers(headers))
    assert not is_cross_site("GET", Headers(headers))
