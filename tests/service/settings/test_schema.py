from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings.names import refuse_unknown_variables
from service.settings.schema import Settings


@pytest.fixture(autouse=True)
def _no_settings_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"NESTLING_{name.upper()}", raising=False)


def test_the_environment_sets_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "NESTLING_VOLUME": "/somewhere",
        "NESTLING_RUN": "tiny",
        "NESTLING_PORT": "9000",
        "NESTLING_DTYPE": "float32",
        "NESTLING_MAX_MODEL_TOKENS": "512",
        "NESTLING_POLL_INTERVAL_S": "0.25",
        "NESTLING_VERIFY_HASHES": "false",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.volume == Path("/somewhere")
    assert (settings.run, settings.port, settings.dtype) == ("tiny", 9000, "float32")
    assert (settings.max_model_tokens, settings.poll_interval_s) == (512, 0.25)
    assert settings.verify_hashes is False


def test_an_argument_is_stronger_than_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NESTLING_PORT", "9000")
    assert Settings(port=9001).port == 9001


def test_settings_do_not_change() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_is(name: str) -> None:
    description = Settings.model_fields[name].description
    assert description is not None
    assert description.endswith(".")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "http"),
        ("port", "70000"),
        ("port", "-1"),
        ("num_slots", "0"),
        ("max_waiting_requests", "-1"),
        ("max_body_bytes", "0"),
        ("request_timeout_s", "0"),
        ("keep_alive_s", "soon"),
        ("poll_interval_s", "-1"),
        ("drain_timeout_s", "-1"),
        ("dtype", "int3"),
        ("dtype", "float16"),
        ("log_level", "loud"),
        ("verify_hashes", "perhaps"),
        ("max_model_tokens", "1"),
        ("threads", "0"),
    ],
)
def test_values_that_make_no_sense_are_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings(**{name: value})


@pytest.mark.parametrize("run", ["..", ".x", "a/b", "a\nb", "a\udcff", "x" * 256, "a\0"])
def test_a_run_that_no_directory_can_be_is_refused(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValidationError, match="is no run of a volume"):
        Settings(run=run)
    if "\0" not in run:
        monkeypatch.setenv("NESTLING_RUN", run)
        with pytest.raises(ValidationError, match="is no run of a volume"):
            Settings()


@pytest.mark.parametrize("run", ["tiny", "пробег", "my run", "x" * 255])
def test_a_run_may_have_any_name_that_is_there(run: str) -> None:
    assert Settings(run=run).run == run
    assert Settings(run="").run is None


@pytest.mark.parametrize("name", ["api_keys", "admin_key"])
@pytest.mark.parametrize("value", ["", " ", "short"])
def test_a_key_that_protects_nothing_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings(**{name: value})


def test_keys_are_not_in_the_settings_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NESTLING_API_KEYS", "open-sesame,second-key")
    monkeypatch.setenv("NESTLING_ADMIN_KEY", "open sesame")
    settings = Settings()
    assert "sesame" not in repr(settings) + str(settings.model_dump())
    assert settings.api_keys is not None
    assert len(settings.api_keys) == 2
    assert settings.admin_key is not None
    assert settings.admin_key.owner("open sesame")


def test_origins_are_split_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NESTLING_CORS_ORIGINS", "https://a.example, http://127.0.0.1:8080")
    assert Settings().cors_origins == ("https://a.example", "http://127.0.0.1:8080")
    assert Settings(cors_origins="*").cors_origins == ("*",)
    for wrong in ("a.example", "https://a.example/", "https://*.example", "null"):
        with pytest.raises(ValidationError, match="is no origin"):
            Settings(cors_origins=wrong)


@pytest.mark.parametrize(("name", "value"), [("guard_metrics", True), ("max_requests_per_key", 3)])
def test_what_is_about_keys_needs_some(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=f"{name} needs api_keys"):
        Settings(**{name: value})
    assert getattr(Settings(**{name: value, "api_keys": "long-enough"}), name) == value


def test_slots_that_leave_no_room_for_prompts_are_refused() -> None:
    with pytest.raises(ValidationError, match="max_step_tokens 8 must exceed num_slots 8"):
        Settings(num_slots=8, max_step_tokens=8)
    assert Settings(num_slots=8, max_step_tokens=9).max_step_tokens == 9


@pytest.mark.parametrize(
    ("name", "neighbour"),
    [
        ("NESTLING_PRT", "NESTLING_PORT"),
        ("NESTLING_VOLUMES", "NESTLING_VOLUME"),
        ("NESTLING_MAX_BODY_SIZE", "NESTLING_MAX_BODY_BYTES"),
        ("NESTLING_", "NESTLING_RUN"),
    ],
)
def test_an_unknown_variable_is_refused_with_its_neighbour(name: str, neighbour: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is no setting; did you mean {neighbour}\?$"):
        refuse_unknown_variables({name: "1"})


KUBERNETES = {
    "NESTLING_SERVICE_HOST": "10.0.0.1",
    "NESTLING_SERVICE_PORT": "8000",
    "NESTLING_SERVICE_PORT_HTTP": "8000",
    "NESTLING_PORT": "tcp://10.0.0.1:8000",
    "NESTLING_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "NESTLING_PORT_8000_TCP_PROTO": "tcp",
    "NESTLING_PORT_8000_TCP_PORT": "8000",
    "NESTLING_PORT_8000_TCP_ADDR": "10.0.0.1",
    "NESTLING_TRAINER_SERVICE_HOST": "10.0.0.2",
    "NESTLING_TRAINER_PORT": "tcp://10.0.0.2:9100",
    "NESTLING_TRAINER_PORT_9100_TCP_ADDR": "10.0.0.2",
}
"""What a pod finds beside Services named ``nestling`` and ``nestling-trainer``."""


def test_variables_that_kubernetes_sets_are_tolerated(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_unknown_variables(KUBERNETES)
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(name, value)
    assert Settings().port == 8000


def test_variables_of_others_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {"PATH": "/bin", "NESTLINGS_EGG": "1", "MY_NESTLING_PORT": "1"}
    refuse_unknown_variables(others)
    monkeypatch.setenv("MY_NESTLING_PORT", others["MY_NESTLING_PORT"])
    assert Settings().port == 8000
