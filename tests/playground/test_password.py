"""Who may use the page."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from machine_tools import free_port
from serving import wait_until

from playground import password

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("swordfish\n", ("nestling", "swordfish")),
        ("me:swordfish", ("me", "swordfish")),
        ("me:sword:fish", ("me", "sword:fish")),
    ],
)
def test_a_file_or_the_environment_has_the_password(
    text: str, expected: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(password.VARIABLE, raising=False)
    assert password.read_password(None) is None
    path = tmp_path / "password"
    path.write_text(text)
    assert password.read_password(path) == expected
    monkeypatch.setenv(password.VARIABLE, text.strip())
    assert password.read_password(None) == expected


@pytest.mark.parametrize("text", ["", "short", "nestling:short"])
def test_a_short_password_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "password"
    path.write_text(text)
    with pytest.raises(ValueError, match="at least 8 characters"):
        password.read_password(path)
    monkeypatch.setenv(password.VARIABLE, text)
    with pytest.raises(ValueError, match=password.VARIABLE):
        password.read_password(None)


def test_only_the_right_pair_passes() -> None:
    check = password.check_of(("näme", "swordfish"))
    assert check("näme", "swordfish")
    wrong = [("näme", "swordfisH"), ("other", "swordfish"), ("", ""), ("näme", "\ud800")]
    assert not any(check(*pair) for pair in wrong)


@pytest.mark.parametrize(
    ("host", "is_public"),
    [
        ("127.0.0.1", False),
        ("127.8.9.1", False),
        ("localhost", False),
        ("::1", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.168.1.5", True),
        ("example.org", True),
    ],
)
def test_beyond_loopback_it_warns_unless_it_has_a_password(host: str, is_public: bool) -> None:
    said = password.warning(host, has_key=True, has_password=False)
    assert (said is not None) is is_public
    if said is not None:
        assert "anyone who reaches the page spends the service's key" in said
        without_key = password.warning(host, has_key=False, has_password=False)
        assert without_key is not None
        assert "key" not in without_key
    assert password.warning(host, has_key=True, has_password=True) is None


def test_a_page_with_a_password_shows_nothing_without_it() -> None:
    port = free_port()
    environment = os.environ | {password.VARIABLE: "me:swordfish", "PYTHONPATH": str(ROOT)}
    with (
        subprocess.Popen(
            [sys.executable, "-m", "playground", f"--port={port}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client,
    ):
        try:
            wait_until(lambda: answers(client), "the page is there", timeout_s=120)
            assert client.get("/").status_code == 200, "the form, and what a health check asks for"
            routes = ["/gradio_api/info", "/config"]
            assert [client.get(route).status_code for route in routes] == [401, 401]
            joined = client.post("/gradio_api/queue/join", json={"data": [], "fn_index": 0})
            assert joined.status_code == 401
            for pair in ({"username": "me", "password": "wrong-one"}, {}):
                assert client.post("/login", data=pair).status_code in (400, 422)
            right = {"username": "me", "password": "swordfish"}
            assert client.post("/login", data=right).status_code == 200
            assert [client.get(route).status_code for route in routes] == [200, 200]
        finally:
            process.kill()


def answers(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/").status_code < 500
    return False
