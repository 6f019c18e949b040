"""With keys, everything but health needs one."""

import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import LiveService, toy_settings
from toys import publish_toy

from service.http.middleware.api_key import bearer_token
from service.settings.keys import Keyring

ALICE, BOB, ADMIN = "alice-has-a-key", "bob-has-a-key", "open sesame"
GUARDED = [
    ("POST", "/generate"),
    ("POST", "/checkpoints/reload"),
    ("GET", "/checkpoints"),
    ("GET", "/v1/models"),
    ("GET", "/version"),
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing"),
    ("GET", "/healthz/"),
    ("GET", "//healthz"),
    ("OPTIONS", "/generate"),
]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    volume = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "toy", 1)
    settings = toy_settings(volume, api_keys=f"{ALICE},{BOB}", admin_key=ADMIN)
    with LiveService(settings) as service:
        service.wait_ready()
        yield service


def ask(service: LiveService, key: str | None, **headers: str) -> httpx.Response:
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    body = {"prompt": "a", "max_new_tokens": 1}
    return service.client.post("/generate", json=body, headers=headers)


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_without_a_key_everything_is_401(guarded: LiveService, method: str, path: str) -> None:
    response = guarded.client.request(method, path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "unauthorized")
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/health", "/metrics"])
def test_health_needs_no_key_nor_do_metrics_unless_asked(guarded: LiveService, path: str) -> None:
    assert guarded.client.get(path).status_code == 200


@pytest.mark.parametrize("key", [ALICE, BOB, ADMIN])
def test_each_key_opens(guarded: LiveService, key: str) -> None:
    assert ask(guarded, key).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        "Bearer wrong-key-of-all",
        f"Bearer {ALICE}x",
        f"Bearer {ALICE[:-1]}",
        f"Bearer {ALICE},{BOB}",
        f"Basic {ALICE}",
        ALICE,
        "Bearer",
        "",
        f"Bearer\t{ALICE}",
    ],
)
def test_what_is_no_key_does_not(guarded: LiveService, value: str) -> None:
    response = guarded.client.get("/version", headers={"authorization": value})
    assert response.status_code == 401
    assert ALICE not in response.text


def test_a_key_of_a_client_does_not_administer(guarded: LiveService) -> None:
    headers = {"authorization": f"Bearer {ALICE}"}
    assert guarded.client.post("/checkpoints/reload", headers=headers).status_code == 401
    headers = {"authorization": f"Bearer {ADMIN}"}
    assert guarded.client.post("/checkpoints/reload", headers=headers).status_code == 200


def test_refusals_are_counted(guarded: LiveService) -> None:
    def refused() -> float:
        counts = guarded.metrics().by_label("admission_rejections_total", "reason")
        return counts.get("unauthorized", 0)

    before = refused()
    ask(guarded, None)
    ask(guarded, "not-a-known-key")
    assert refused() == before + 2


def test_no_log_line_has_a_key(guarded: LiveService, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        ask(guarded, BOB)
        ask(guarded, "not-a-known-key")
    assert caplog.records
    assert not any(
        key in record.getMessage() for record in caplog.records for key in (BOB, "not-a-known-key")
    )


def test_the_schema_says_where_a_key_is_needed(guarded: LiveService) -> None:
    headers = {"authorization": f"Bearer {ALICE}"}
    for _ in range(2):  # the second is cached
        schema = guarded.client.get("/openapi.json", headers=headers).json()
        assert schema["security"] == [{"ApiKey": []}]
        assert schema["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
        assert schema["paths"]["/healthz"]["get"]["security"] == []
        assert "security" not in schema["paths"]["/generate"]["post"]


def test_metrics_can_be_guarded(tmp_path: Path) -> None:
    settings = toy_settings(tmp_path, api_keys=ALICE, guard_metrics=True)
    with LiveService(settings) as service:
        assert service.client.get("/metrics").status_code == 401
        headers = {"authorization": f"Bearer {ALICE}"}
        assert "nestling_" in service.client.get("/metrics", headers=headers).text


def test_an_admin_key_alone_guards_nothing_else(tmp_path: Path) -> None:
    with LiveService(toy_settings(tmp_path, admin_key=ADMIN)) as service:
        assert service.client.get("/version").status_code == 200
        assert "security" not in service.client.get("/openapi.json").json()


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ([(b"authorization", b"Bearer abc")], "abc"),
        ([(b"authorization", b"bearer  abc ")], "abc"),
        ([(b"authorization", b"BEARER a b")], "a b"),
        ([(b"authorization", b"Bearer \xff")], "\xff"),
        ([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")], "a"),
        ([(b"x-authorization", b"Bearer abc")], ""),
        ([], ""),
    ],
)
def test_tokens_of_headers(headers: list[tuple[bytes, bytes]], token: str) -> None:
    assert bearer_token(headers) == token


def test_an_empty_token_is_never_a_key() -> None:
    assert Keyring.parse("long-enough").owner("") is None
