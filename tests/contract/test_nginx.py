"""Behind a real nginx with the configuration of ``docker/nginx``."""

import itertools
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from machine_tools import free_port, require_tool
from serving import ServiceProcess, wait_until
from toys import publish_toy

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "docker" / "nginx" / "nestling.conf"
STEP_DELAY_S = 0.05
AROUND = """
daemon off; pid {here}/pid; error_log {here}/error.log;
events {{}}
http {{
    access_log off;
    gzip on; gzip_types *;
    client_body_temp_path {here}/body; proxy_temp_path {here}/proxy;
    fastcgi_temp_path {here}/fastcgi; uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;
    {config}
}}
"""
"""Everything in one directory; with the compression that many configurations turn on."""


class Proxy:
    """nginx before a service of its own."""

    def __init__(self, service: ServiceProcess, port: int) -> None:
        self.service = service
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def arrivals(self, **body: object) -> Iterator[tuple[float, str]]:
        """Pieces of a streamed answer with the seconds at which they came."""
        began = time.monotonic()
        request = {"prompt": "ab", "seed": 1, "stream": True, **body}
        with self.client.stream("POST", "/generate", json=request) as response:
            assert response.status_code == 200
            for piece in response.iter_text():
                yield time.monotonic() - began, piece


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    nginx = require_tool("nginx", package="nginx-light")
    publish_toy(tmp_path / "volume", "toy", 1)
    port, here = free_port(), tmp_path / "nginx"
    here.mkdir()
    with ServiceProcess(tmp_path / "volume", step_delay_s=STEP_DELAY_S) as service:
        service.wait_serving("toy@1")
        config = CONFIG.read_text("utf-8")
        config = config.replace(":8000", f":{service.port}").replace(":8080", f":{port}")
        (here / "nginx.conf").write_text(AROUND.format(here=here, config=config))
        process = subprocess.Popen([nginx, "-p", str(here), "-c", str(here / "nginx.conf")])
        proxy = Proxy(service, port)
        try:
            wait_until(lambda: answers(proxy.client), "nginx answers")
            yield proxy
        finally:
            proxy.client.close()
            process.send_signal(signal.SIGQUIT)
            process.wait(20)


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_tokens_come_one_by_one(proxy: Proxy) -> None:
    arrivals = list(proxy.arrivals(max_new_tokens=20, temperature=0))
    times = [at for at, piece in arrivals if "token_id" in piece]
    assert len(times) >= 15, "hardly two in one piece"
    assert times[0] < 0.5 * times[-1]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) < 10 * STEP_DELAY_S
    assert "".join(piece for _, piece in arrivals).endswith("data: [DONE]\n\n")


def test_connections_to_the_service_are_kept(proxy: Proxy) -> None:
    used = set()
    for _ in range(20):
        assert proxy.client.get("/version").status_code == 200
        used |= peers(proxy.service)
    assert used == peers(proxy.service), "all over the same connections"
    time.sleep(4.5)  # past nginx's patience with an idle connection
    assert proxy.client.get("/version").status_code == 200


def peers(service: ServiceProcess) -> set[int]:
    """Ports from which the service is connected to."""
    return {
        one.raddr.port
        for one in psutil.Process(service.process.pid).net_connections()
        if one.status == psutil.CONN_ESTABLISHED and one.laddr.port == service.port
    }


def test_a_client_that_leaves_nginx_leaves_the_service(proxy: Proxy) -> None:
    stream = proxy.arrivals(max_new_tokens=200)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    wait_until(lambda: proxy.service.metrics().value("num_requests_running") == 0, "it is aborted")
    outcomes = proxy.service.metrics().by_label("requests_total", "outcome")
    assert outcomes["abort"] == 1


def test_errors_come_through_as_they_are(proxy: Proxy) -> None:
    refused = proxy.client.post("/generate", json={"prompt": "ab", "max_new_tokens": 9999})
    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "context_length_exceeded"


def test_a_service_that_is_cut_off_ends_the_stream(proxy: Proxy) -> None:
    """No hang and no second try: the client sees that the answer is not whole."""
    stream = proxy.arrivals(max_new_tokens=200)
    next(stream)
    proxy.service.process.kill()
    began = time.monotonic()
    with pytest.raises(httpx.RemoteProtocolError):
        list(stream)
    assert time.monotonic() - began < 5
    assert proxy.client.get("/healthz").status_code == 502
