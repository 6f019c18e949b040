"""Pages of other origins: nothing by default, by setting what they need and no more."""

from collections.abc import Iterator

import pytest
from serving import LiveService, toy_settings

PAGE = "https://page.example"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type",
}


@pytest.fixture(scope="module")
def open_to_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    volume = tmp_path_factory.mktemp("volume")
    settings = toy_settings(volume, cors_origins=PAGE, api_keys="a-key-of-pages")
    with LiveService(settings) as service:
        yield service


def test_by_default_no_page_may_read(service: LiveService) -> None:
    for response in (
        service.client.options("/generate", headers=PREFLIGHT),
        service.client.post("/generate", json={"prompt": "a"}, headers={"origin": PAGE}),
    ):
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_named_origin_may_ask_before_it_has_a_key(open_to_page: LiveService) -> None:
    response = open_to_page.client.options("/generate", headers=PREFLIGHT)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == PAGE
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "Authorization" in response.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in response.headers
    assert response.headers["x-request-id"]


def test_it_may_read_answers_errors_and_their_headers(open_to_page: LiveService) -> None:
    response = open_to_page.client.get("/version", headers={"origin": PAGE})
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == PAGE
    assert "x-request-id" in response.headers["access-control-expose-headers"]


def test_another_origin_may_not(open_to_page: LiveService) -> None:
    other = PREFLIGHT | {"origin": "https://other.example"}
    response = open_to_page.client.options("/generate", headers=other)
    assert response.status_code == 400
    assert "access-control-allow-origin" not in response.headers
