"""The service's public HTTP API, as the page needs it.

Each call is a connection of its own that ends with it: a person who stops an answer closes it, by
which the service frees the slot at once.
"""

import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx

CONNECT_S, READ_S = 5.0, 120.0
_DONE = "[DONE]"

Json = dict[str, Any]


class Problem(Exception):
    """What went wrong, in words for the person at the page."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Service:
    """Where the service is, and the key that it may want."""

    url: str
    api_key: str | None = None
    transport: httpx.AsyncBaseTransport | None = None
    """Replaces the network in tests."""

    async def get(self, path: str) -> Json:
        """A JSON answer; raises ``Problem``."""
        async with self._client() as client:
            with _said_in_words():
                response = await client.get(path)
                _check(response)
                answer: Json = response.json()
                return answer

    async def post(self, path: str, body: Json) -> Json:
        """A whole answer; raises ``Problem``."""
        async with self._client() as client:
            with _said_in_words():
                response = await client.post(path, json=body)
                _check(response)
                answer: Json = response.json()
                return answer

    async def stream(self, path: str, body: Json) -> AsyncGenerator[Json, None]:
        """Events of a streamed answer as they come; raises ``Problem``, also in its midst."""
        async with self._client() as client:
            with _said_in_words():
                async with client.stream("POST", path, json=body | {"stream": True}) as response:
                    if response.is_error:
                        await response.aread()
                    _check(response)
                    async for line in response.aiter_lines():
                        if line.startswith("data: ") and line[6:] != _DONE:
                            event = json.loads(line[6:])
                            if "error" in event:
                                raise Problem(event["error"]["message"])
                            yield event

    def _client(self) -> httpx.AsyncClient:
        headers = {} if self.api_key is None else {"authorization": f"Bearer {self.api_key}"}
        return httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
            transport=self.transport,
        )


def _check(response: httpx.Response) -> None:
    """Raise ``Problem`` with the service's own words for an answer that is an error."""
    if response.is_success:
        return
    message = response.reason_phrase
    with contextlib.suppress(ValueError, KeyError, TypeError):
        message = response.json()["error"]["message"]
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        wait: Mapping[str, str] = response.headers
        message = f"the service is busy; try again in {wait.get('retry-after', 'a few')} s"
    raise Problem(message)


@contextlib.contextmanager
def _said_in_words() -> Any:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise Problem("the service cannot be reached just now; it may be restarting") from error
    except httpx.TimeoutException as error:
        raise Problem("the service did not answer in time") from error
    except httpx.HTTPError as error:
        raise Problem("the connection to the service broke off") from error
