"""``python steady_client.py PORT PROMPT TOKENS KEY``: streams without end, health checks beside.

Prints one JSON list a line: ``["token", at]``, ``["health", began, ended, status]`` or
``["error", at, text]``. Times are ``time.monotonic``, which all processes of a machine share. It is
a process of its own so that the attacker's interpreter does not delay what it measures.
"""

import http.client
import json
import sys
import threading
import time

HEALTH_PERIOD_S = 0.05
TIMEOUT_S = 60.0


def main(port: int, prompt: str, tokens: int, key: str) -> None:
    """Stream until killed."""
    headers = {"content-type": "application/json"} | (
        {"authorization": f"Bearer {key}"} if key else {}
    )
    threading.Thread(target=check_health, args=(port,), daemon=True).start()
    body = {"prompt": prompt, "max_new_tokens": tokens, "stream": True, "ignore_eos": True}
    while True:
        try:
            stream(port, json.dumps(body).encode(), headers)
        except (OSError, http.client.HTTPException) as error:
            say("error", time.monotonic(), repr(error))
            time.sleep(0.05)


def stream(port: int, body: bytes, headers: dict[str, str]) -> None:
    """One answer, a line for each of its events."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    connection.request("POST", "/generate", body, headers)
    response = connection.getresponse()
    if response.status != http.HTTPStatus.OK:
        say("error", time.monotonic(), f"{response.status} {response.read(500)!r}")
        time.sleep(0.05)
        return
    is_whole = False
    while line := response.readline():
        if b'"error"' in line:
            say("error", time.monotonic(), line.decode())
        elif line == b"data: [DONE]\n":
            is_whole = True
        elif line.startswith(b"data: "):
            say("token", time.monotonic())
    if not is_whole:
        say("error", time.monotonic(), "the stream ended without [DONE]")


def check_health(port: int) -> None:
    """Ask ``/healthz`` again and again, each time on a new connection."""
    while True:
        began = time.monotonic()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
            connection.request("GET", "/healthz")
            status = connection.getresponse().status
            connection.close()
        except (OSError, http.client.HTTPException):
            status = 0
        say("health", began, time.monotonic(), status)
        time.sleep(HEALTH_PERIOD_S)


def say(*event: object) -> None:
    """Print one event."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] if sys.argv[4:] else "")
