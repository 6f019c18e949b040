"""slowhttptest, which holds a server's connections by being slow, keeps nobody else out."""

import re
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from machine_tools import require_tool
from serving import ServiceProcess
from toys import publish_toy

pytestmark = [pytest.mark.slow, pytest.mark.alone]

MAX_CONNECTIONS = 128
SECONDS = 12
COLOURS = re.compile(r"\x1b\[[\d;]*[A-Za-z]")
ATTACKS = {
    "headers": ["-H", "-i", "2", "-x", "8"],
    "bodies": ["-B", "-i", "2", "-x", "8", "-s", "4096", "-t", "POST", "-f", "application/json"],
    "reading": ["-X", "-w", "1", "-y", "2", "-n", "2", "-z", "1", "-k", "3"],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_others_are_answered_at_once(tmp_path: Path, attack: str) -> None:
    slowhttptest = require_tool("slowhttptest", package="slowhttptest")
    publish_toy(tmp_path / "volume", "toy", 1)
    options = {"client_timeout_s": 5, "max_connections": MAX_CONNECTIONS}
    with ServiceProcess(tmp_path / "volume", **options) as service:
        service.wait_serving("toy@1")
        path = "openapi.json" if attack == "reading" else "generate"
        url = f"{service.client.base_url}/{path}"
        command = [slowhttptest, *ATTACKS[attack], "-u", url, "-r", "200", "-l", str(SECONDS)]
        command += ["-c", str(4 * MAX_CONNECTIONS), "-p", "2"]
        attacker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        waits = []
        while attacker.poll() is None:
            began = time.monotonic()
            with httpx.Client(base_url=service.client.base_url, timeout=10) as newcomer:
                body = {"prompt": "ab", "max_new_tokens": 2}
                assert newcomer.post("/generate", json=body).status_code == 200
            waits.append(time.monotonic() - began)
            time.sleep(0.1)
        said, _ = attacker.communicate()
        assert len(waits) > 20
        assert max(waits) < 1
        assert set(re.findall(r"service available: +(\w+)", COLOURS.sub("", said))) == {"YES"}
