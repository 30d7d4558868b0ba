"""Who calls, and what they may do."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import pwd
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from tierd.config import ApiConfig
from tierd.errors import Unauthorized
from tierd.serve.auth import PEER, Caller, Gate, Peer, Role

NOBODY = pwd.getpwnam("nobody").pw_uid


def gate(**config: Any) -> Gate:
    tokens = {hashlib.sha256(name.encode()).hexdigest(): name for name in ("read", "admin")}
    return Gate(ApiConfig(tokens=tokens, **config), own_uid=12345)


def caller(gate: Gate, *, peer: Peer | None = None, authorization: str | None = None) -> Caller:
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    scope: dict[str, Any] = {"type": "http", "headers": headers}
    if peer is not None:
        scope[PEER] = peer
    return asyncio.run(gate.caller(HTTPConnection(scope)))


@pytest.mark.parametrize("uid", [0, 12345])
def test_root_and_the_daemons_own_user_may_do_everything(uid: int) -> None:
    assert caller(gate(), peer=Peer(1, uid, 0)).role is Role.ADMIN


def test_everybody_else_on_the_socket_may_warm_and_is_named() -> None:
    found = caller(gate(), peer=Peer(4711, NOBODY, 0))
    assert found.role is Role.WARM
    assert found.name == f"nobody@{os.uname().nodename}:4711"


def test_a_configured_admin_may_do_everything_and_an_unknown_one_is_nobody() -> None:
    assert caller(gate(admins=("nobody", "no-such-user")), peer=Peer(1, NOBODY, 0)).role is Role.ADMIN


def test_a_user_without_a_name_is_named_by_number() -> None:
    assert caller(gate(), peer=Peer(1, 3_999_999, 0)).name.startswith("uid-3999999@")


def test_without_peer_and_token_nobody_gets_in() -> None:
    with pytest.raises(Unauthorized):
        caller(gate())


@pytest.mark.parametrize("authorization", ["Bearer wrong", "Bearer ", "Basic !", "Digest x", "Bearer \u00e9"])
def test_a_wrong_token_is_refused_even_on_the_socket(authorization: str) -> None:
    with pytest.raises(Unauthorized):
        caller(gate(), authorization=authorization, peer=Peer(1, 0, 0))


def test_a_token_has_its_role_as_bearer_and_as_basic_password() -> None:
    assert caller(gate(), authorization="Bearer read").role is Role.READ
    basic = base64.b64encode(b"anyone:admin").decode()
    assert caller(gate(), authorization=f"Basic {basic}").role is Role.ADMIN


def test_a_token_on_the_socket_can_only_add_rights() -> None:
    assert caller(gate(), authorization="Bearer read", peer=Peer(1, 0, 0)).role is Role.ADMIN
    assert caller(gate(), authorization="Bearer admin", peer=Peer(1, NOBODY, 0)).role is Role.ADMIN


def test_a_tokens_name_does_not_tell_the_token() -> None:
    assert caller(gate(), authorization="Bearer read").name == f"token {hashlib.sha256(b'read').hexdigest()[:8]}"
