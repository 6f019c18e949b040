"""The OpenAPI page: an example of every route, each of the shape that is really answered."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import LiveService, toy_settings
from toys import publish_toy

from service.http.examples import ERROR, EXAMPLES, PATH_EXAMPLES, TGI_ERROR, Example

ADMIN = {"authorization": "Bearer key-of-the-page"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """Serves the run that the examples speak of."""
    volume: Path = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "tiny", 500)
    (volume / "tiny" / "metrics.jsonl").write_text("")
    with LiveService(toy_settings(volume, admin_key="key-of-the-page")) as service:
        service.wait_ready()
        yield service


@pytest.fixture(scope="module")
def operations(tiny: LiveService) -> dict[str, dict[str, Any]]:
    """The page's entries by path; each path has one."""
    paths = tiny.client.get("/openapi.json").json()["paths"]
    return {
        path: operation for path, by_method in paths.items() for operation in by_method.values()
    }


def shape(value: object) -> object:
    """Names all the way down; what is empty or null can be of any shape."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else None
    return None


def fits(example: object, answer: object) -> bool:
    """Whether two shapes are the same, but for parts that one of them leaves open."""
    if isinstance(example, dict) and isinstance(answer, dict):
        return example.keys() == answer.keys() and all(
            fits(example[name], answer[name]) for name in example
        )
    if isinstance(example, list) and isinstance(answer, list):
        return fits(example[0], answer[0])
    return example is None or answer is None


def test_every_route_has_an_example_of_all_that_it_takes_and_gives(
    operations: dict[str, dict[str, Any]],
) -> None:
    assert operations.keys() == EXAMPLES.keys()
    for path, operation in operations.items():
        assert operation["summary"]
        assert operation["description"]
        body = operation.get("requestBody")
        assert (body is None) == (EXAMPLES[path].body is None)
        if body is not None:
            assert body["content"]["application/json"]["example"] == EXAMPLES[path].body
        for status, response in operation["responses"].items():
            assert response["content"], (path, status)
            for content in response["content"].values():
                is_reason = status == "503" and "Health" in str(content["schema"])
                assert is_reason or "example" in content, (path, status)
        for parameter in operation.get("parameters", ()):
            assert parameter["in"] == "header" or parameter["example"] in PATH_EXAMPLES.values()


def test_no_route_promises_an_error_of_fastapis_shape(tiny: LiveService) -> None:
    page = tiny.client.get("/openapi.json").text
    assert tiny.client.get("/openapi.json").text == page, "completed once"
    assert "HTTPValidationError" not in page
    assert "422" not in json.loads(page)["paths"]["/v1/completions"]["post"]["responses"]
    assert tiny.client.get("/docs").status_code == 200


@pytest.mark.parametrize(("path", "example"), EXAMPLES.items(), ids=EXAMPLES.keys())
def test_an_example_is_what_is_answered(tiny: LiveService, path: str, example: Example) -> None:
    url = path.format(**PATH_EXAMPLES)
    if example.answer is not None:
        method = "GET" if example.body is None else "POST"
        response = tiny.client.request(method, url, json=example.body, headers=ADMIN)
        assert response.status_code == 200, response.text
        if isinstance(example.answer, str):
            assert {*example.answer.splitlines()[:2]} <= {*response.text.splitlines()}
        else:
            assert fits(shape(example.answer), shape(response.json())), response.json()
    if example.last_event is not None:
        body = {**(example.body or {}), "stream": True}
        frames = tiny.client.post(url, json=body).text.split("\n\n")
        assert frames.pop() == ""
        assert (frames[-1] == "data: [DONE]") == example.ends_with_done
        event = json.loads(frames[-2 if example.ends_with_done else -1].removeprefix("data: "))
        assert fits(shape(example.last_event), shape(event)), event


def test_examples_of_errors_are_what_is_answered(tiny: LiveService) -> None:
    own = tiny.client.post("/generate", json={"prompt": "a", "temprature": 1})
    assert own.json() == ERROR
    tgi = tiny.client.post("/", json={"inputs": "a", "parameters": {"best_of": 2}})
    assert tgi.json() == TGI_ERROR


def test_the_page_is_made_once(tiny: LiveService, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tiny.client.get("/openapi.json")
    assert first.headers["content-type"] == "application/json"
    monkeypatch.setattr("service.http.openapi._complete", None)
    assert tiny.client.get("/openapi.json").content == first.content
