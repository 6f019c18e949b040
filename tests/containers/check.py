"""``make test-containers``: builds the images, runs the stack, breaks it, looks from outside.

With a Docker Engine that can pull images it runs what is shipped. Without one it starts a private
engine (``engine.sh``) and stands in for the base images; Grafana, which no Debian package has, is
then left out and said so. Needs Compose v2; without an engine also root, Debian and apt.
"""

import contextlib
import functools
import http.server
import json
import os
import shlex
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ENGINE = Path(__file__).with_name("engine.sh")
WHEELS_PORT = 18898
PORTS = {
    "SERVICE_PORT": "18800",
    "PROMETHEUS_PORT": "18890",
    "GRAFANA_PORT": "18830",
    "PLAYGROUND_PORT": "18860",
}
USERS = {"trainer": 10001, "service": 10002, "playground": 10003}
SERVICE = "http://127.0.0.1:18800"
PROMETHEUS = "http://127.0.0.1:18890"
GRAFANA = "http://127.0.0.1:18830"
PLAYGROUND = "http://127.0.0.1:18860"
READY_S = 300
ADMIN_KEY = "admin-key-of-the-containers-test"
API_KEY = "api-key-of-the-containers-test"


class Stack:
    """The project's compose file, with settings of this test."""

    def __init__(self, environment: dict[str, str], services: list[str]) -> None:
        self._environment = os.environ | environment
        self.services = services

    def docker(self, *arguments: str, timeout_s: float = 300) -> str:
        """Run a command of the client; fails with what it said."""
        done = subprocess.run(
            ["docker", *arguments],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, f"docker {shlex.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def compose(self, *arguments: str, timeout_s: float = 300) -> str:
        """Run a command of Compose."""
        return self.docker("compose", *arguments, timeout_s=timeout_s)

    def up(self) -> None:
        """Start everything; returns once what is waited for is healthy."""
        self.compose("up", "--detach", *self.services)

    def up_playground(self) -> None:
        """Start the page, too; returns once the service is ready and the page begins."""
        self.compose("up", "--detach", "playground", timeout_s=READY_S)

    def down(self) -> None:
        """Stop and remove every container."""
        self.compose("down")

    def clear(self) -> None:
        """Remove every container and volume."""
        self.compose("down", "--volumes", "--remove-orphans")

    def inspect(self, service: str, path: str) -> str:
        """One value of a container."""
        name = self.compose("ps", "--all", "--quiet", service).strip()
        return self.docker("inspect", "--format", "{{" + path + "}}", name).strip()

    def logs(self, service: str) -> str:
        """What a service wrote since it was created, on either stream."""
        name = self.compose("ps", "--all", "--quiet", service).strip()
        done = subprocess.run(
            ["docker", "logs", name], env=self._environment, capture_output=True, text=True
        )
        return done.stdout + done.stderr


def main() -> int:
    """Run every check; 0 if all hold."""
    with engine() as (environment, services):
        stack = Stack(environment | PORTS, services)
        stack.clear()
        try:
            for check in CHECKS:
                began = time.monotonic()
                check(stack)
                say(f"{check.__doc__} ({time.monotonic() - began:.1f} s)")
        except BaseException:
            for service in ("trainer", "service", "prometheus", "playground"):
                sys.stderr.write(stack.logs(service)[-3000:] + "\n")
            raise
        finally:
            stack.clear()
    say("all checks hold")
    return 0


@contextlib.contextmanager
def engine() -> Iterator[tuple[dict[str, str], list[str]]]:
    """Variables of a client and the services to run: a given engine's, or a private one's."""
    common = {
        "ADMIN_KEY_FILE": key_file("admin_key", ADMIN_KEY),
        "API_KEYS_FILE": key_file("api_keys", API_KEY),
        "COMPOSE_FILE": "compose.yaml:compose.keys.yaml",
        "COMPOSE_PROFILES": "playground",
        "RECIPE": "tiny",
        "NESTLING_PLAYGROUND_URL": PLAYGROUND,
    }
    if subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        say("with this machine's engine and the images of the registries")
        yield common, ["trainer", "service", "prometheus", "grafana"]
        return
    say("with a private engine and stand-ins for python and prometheus, without Grafana")
    with wheels():
        env = os.environ | {"WHEELS_URL": f"http://127.0.0.1:{WHEELS_PORT}/"}
        exports = subprocess.run(
            [ENGINE, "up"], env=env, check=True, capture_output=True, text=True
        ).stdout
        subprocess.run([ENGINE, "images"], env=env, check=True)
        try:
            variables = dict(pair.split("=", 1) for pair in exports.split()[1:])
            stand_ins = {
                "PYTHON_IMAGE": "stand-in/python",
                "PROMETHEUS_IMAGE": "stand-in/prometheus",
                "TORCH_INDEX": "",
                "BUILD_NETWORK": "host",
            }
            yield common | variables | stand_ins, ["trainer", "service", "prometheus"]
        finally:
            subprocess.run([ENGINE, "down"], check=True)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextlib.contextmanager
def wheels() -> Iterator[None]:
    """Serve the folder of wheels that this machine's pip looks into, if it has one."""
    pip = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(pip, capture_output=True, text=True, check=True).stdout
    found = [
        line.split("=", 1)[1].strip("'") for line in listed.splitlines() if "find-links" in line
    ]
    folder = next((path for path in found if Path(path).is_dir()), str(ROOT / "build"))
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", WHEELS_PORT), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def key_file(name: str, key: str) -> str:
    """A file that the service's user can read."""
    path = ROOT / "build" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(key)
    path.chmod(0o644)
    return str(path)


def images_are_small_and_hold_no_compiler(stack: Stack) -> None:
    """all images build; their sizes are these; no compiler is in them"""
    stack.compose("build", *USERS, timeout_s=1800)
    for name in USERS:
        size = int(stack.docker("image", "inspect", "--format", "{{.Size}}", f"nestling-{name}"))
        say(f"  nestling-{name}: {size / 1e6:,.0f} MB")
        assert size < 2e9
        script = (
            "import shutil; print(shutil.which('gcc'), shutil.which('g++'), shutil.which('cc'))"
        )
        run = ("run", "--rm", "--entrypoint", "python", f"nestling-{name}", "-c", script)
        assert stack.docker(*run).split() == ["None"] * 3


def the_stack_comes_up(stack: Stack) -> None:
    """`up`: an empty volume is healthy, the first checkpoint makes the service ready"""
    began = time.monotonic()
    stack.up()
    say(f"  up returned after {time.monotonic() - began:.1f} s, the service healthy")
    assert stack.inspect("service", ".State.Health.Status") == "healthy"
    is_ready_already = is_ready()
    stack.up_playground()
    assert is_ready(), "the playground waits for it"
    say(f"  ready after {time.monotonic() - began:.1f} s: {get_json(f'{SERVICE}/readyz')}")
    if is_ready_already:
        say("  the service was ready at once: that the playground waits was not seen")


def the_playground_answers(stack: Stack) -> None:
    """the page continues a prompt with the key that it was given, and the service links to it"""
    wait(lambda: get(PLAYGROUND)[0] == 200, "the page is there")
    wait(lambda: stack.inspect("playground", ".State.Health.Status") == "healthy", "it is healthy")
    assert PLAYGROUND.encode() in get(SERVICE, key=API_KEY)[1]
    names = get_json(f"{PLAYGROUND}/gradio_api/info")["named_endpoints"]["/generate"]["parameters"]
    newest = names[1]["parameter_default"]
    asked = {"data": ["First Citizen:", newest, 0.8, 1.0, 50, 8, "1", ""]}
    call = f"{PLAYGROUND}/gradio_api/call/generate"
    event = json.loads(post(call, asked)[1])["event_id"]
    said = get(f"{call}/{event}")[1].decode()
    assert "event: complete" in said, said
    assert "`tiny@" in said, said


def the_service_has_its_kernels(stack: Stack) -> None:
    """the service runs native kernels where this processor has what they need"""
    probe = (
        "from service.models.kernels.native import supported_isas; print(bool(supported_isas()))"
    )
    if stack.compose("exec", "service", "python", "-c", probe).strip() == "True":
        assert "native" in stack.logs("service"), stack.logs("service")


def the_service_answers_and_keeps_its_key(stack: Stack) -> None:
    """an answer, whole and streamed; only the key of the secret may pin"""
    assert ask()["usage"]["completion_tokens"] == 5
    generate, reload = f"{SERVICE}/generate", f"{SERVICE}/checkpoints/reload"
    assert b"data: [DONE]" in post(generate, {"prompt": "To be", "stream": True})[1]
    assert post(generate, {"prompt": "To be"}, key="no-such-key")[0] == 401
    assert post(reload, {})[0] in (401, 403)
    assert post(reload, {}, key=ADMIN_KEY)[0] == 200
    assert not {API_KEY, ADMIN_KEY} & set(stack.logs("service").split('"'))
    assert all(json.loads(line) for line in stack.logs("service").splitlines())


def containers_are_locked_down(stack: Stack) -> None:
    """read-only roots, no capabilities, three users, a volume that the service cannot write"""
    probe = "import os; print(os.getuid(), [l for l in open('/proc/self/status') if 'CapEff' in l])"
    for name, expected in USERS.items():
        user, capabilities = stack.compose("exec", name, "python", "-c", probe).split(" ", 1)
        assert "0000000000000000" in capabilities
        assert int(user) == expected
        for path in ("/opt/venv/x", *(["/models/x"] if name == "service" else [])):
            touch = f"try:\n open('{path}', 'w')\nexcept OSError as e: print(e.strerror)"
            said = stack.compose("exec", name, "python", "-c", touch).strip()
            assert said in ("Read-only file system", "Permission denied"), said


def prometheus_scrapes_both(stack: Stack) -> None:
    """Prometheus has both targets, the served step, the training loss and the rules"""
    for expression in (
        'up{job="service"} == 1',
        'up{job="trainer"} == 1',
        "nestling_checkpoint_step",
        "nestling_trainer_loss_average > 0",
        "nestling_requests_total > 0",
    ):
        wait(lambda asked=expression: query(asked), expression)
    groups = get_json(f"{PROMETHEUS}/api/v1/rules")["data"]["groups"]
    assert sum(len(group["rules"]) for group in groups) > 12
    if "grafana" in stack.services:
        wait(lambda: get(f"{GRAFANA}/api/dashboards/uid/nestling")[0] == 200, "the dashboard", 120)


def a_killed_service_comes_back(stack: Stack) -> None:
    """`kill -s KILL service`: started again, it serves the newest step as before"""
    before = served_step()
    stack.compose("kill", "--signal", "KILL", "service")
    revive(stack, "service")
    wait(is_ready, "the service is ready again")
    assert served_step() >= before
    assert ask()["finish_reason"] == "length"


def a_killed_trainer_goes_on(stack: Stack) -> None:
    """`kill -s KILL trainer`: it goes on past what it had published, the service unharmed"""
    stack.compose("kill", "--signal", "KILL", "trainer")
    before = published_step(stack)
    assert ask()["finish_reason"] == "length"
    revive(stack, "trainer")
    wait(lambda: served_step() > before, "a newer step serves", READY_S)


def down_drains_and_up_resumes(stack: Stack) -> None:
    """`down` lets a running answer end and saves; `up` goes on from there"""
    before = served_step()
    answers: list[tuple[int, bytes]] = []
    body = {"prompt": "To be", "max_new_tokens": 200, "stream": True, "seed": 1}
    client = threading.Thread(target=lambda: answers.append(post(f"{SERVICE}/generate", body)))
    client.start()
    time.sleep(0.3)
    stack.compose("stop")
    client.join()
    assert answers[0][0] == 200
    assert b"data: [DONE]" in answers[0][1]
    for name in USERS:
        assert stack.inspect(name, ".State.ExitCode") == "0", stack.logs(name)[-2000:]
    assert "draining" in stack.logs("service")
    assert "it is saved at step" in stack.logs("trainer")
    stack.down()
    began = time.monotonic()
    stack.up()
    wait(is_ready, "ready after the second up")
    say(f"  ready {time.monotonic() - began:.1f} s after the second up")
    assert served_step() >= before
    wait(lambda: served_step() > before, "training went on", READY_S)


CHECKS: list[Callable[[Stack], None]] = [
    images_are_small_and_hold_no_compiler,
    the_stack_comes_up,
    the_service_has_its_kernels,
    the_service_answers_and_keeps_its_key,
    the_playground_answers,
    containers_are_locked_down,
    prometheus_scrapes_both,
    a_killed_service_comes_back,
    a_killed_trainer_goes_on,
    down_drains_and_up_resumes,
]


def revive(stack: Stack, service: str) -> None:
    """Docker takes a `kill` for an intended stop in some versions; `up` then starts it again."""
    time.sleep(3)
    if stack.inspect(service, ".State.Running") != "true":
        stack.up()


def is_ready() -> bool:
    """Whether the service has a checkpoint to answer with."""
    return get(f"{SERVICE}/readyz")[0] == 200


def published_step(stack: Stack) -> int:
    """Newest step that the volume holds."""
    names = "[n for n in os.listdir('/models/tiny') if n.startswith('step-')]"
    probe = f"import os; print(max({names}).removeprefix('step-'))"
    return int(stack.compose("exec", "service", "python", "-c", probe))


def served_step() -> int:
    """Step of the served checkpoint."""
    return int(get_json(f"{SERVICE}/readyz")["checkpoint"].rpartition("@")[2])


def ask() -> dict[str, Any]:
    """A short whole answer."""
    body = {"prompt": "First Citizen:", "max_new_tokens": 5, "seed": 1, "temperature": 0}
    status, answer = post(f"{SERVICE}/generate", body)
    assert status == 200, answer
    return dict(json.loads(answer))


def query(expression: str) -> list[Any]:
    """An instant query of Prometheus."""
    quoted = urllib.request.quote(expression)  # type: ignore[attr-defined]
    return list(get_json(f"{PROMETHEUS}/api/v1/query?query={quoted}")["data"]["result"])


def get(url: str, key: str | None = None) -> tuple[int, bytes]:
    """Status and body; status 0 where nobody listens."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return fetch(urllib.request.Request(url, headers=headers))


def get_json(url: str) -> Any:
    """A body that is JSON."""
    return json.loads(get(url)[1])


def post(url: str, body: dict[str, Any], key: str = API_KEY) -> tuple[int, bytes]:
    """Post JSON, to the service above all."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    return fetch(urllib.request.Request(url, json.dumps(body).encode(), headers))


def fetch(request: urllib.request.Request) -> tuple[int, bytes]:
    """Status and body of an answer, whatever its status."""
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def wait(condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(ValueError, KeyError, AttributeError):
            if condition():
                return
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.25)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"containers | {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
