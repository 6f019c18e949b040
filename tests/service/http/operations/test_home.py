import re
from pathlib import Path

import httpx
from serving import LiveService, toy_settings


def test_the_first_page_shows_a_command_that_works_here(client: httpx.Client) -> None:
    response = client.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert f"curl -N {client.base_url}/generate" in response.text
    for link in re.findall(r'href="([^"]+)"', response.text):
        assert client.get(link).status_code == 200, link


def test_the_playground_is_linked_where_there_is_one(tmp_path: Path) -> None:
    url = "http://127.0.0.1:7860/?a=1&b=2"
    with LiveService(toy_settings(tmp_path, playground_url=url)) as service:
        page = service.client.get("/").text
    assert f'href="{url.replace("&", "&amp;")}"' in page


def test_a_hostile_host_header_is_only_text(client: httpx.Client) -> None:
    page = client.get("/", headers={"host": '"><script>alert(1)</script>'}).text
    assert "<script" not in page
