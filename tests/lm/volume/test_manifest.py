import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import toy_config, toy_details
from toys.properties import examples

from lm.volume.errors import StepDamaged, UnknownFormat, VolumeError
from lm.volume.manifest import FileEntry, Manifest, Progress, step_name, step_number

WEIGHTS = FileEntry(size=3, sha256="aa")
STATE = FileEntry(size=5, sha256="bb")


def manifest(**changes: Any) -> Manifest:
    made = Manifest(
        run="tiny",
        step=500,
        created_at="2026-01-02T03:04:05.678000+00:00",
        files={"model.safetensors": WEIGHTS, "training_state.safetensors": STATE},
        details=toy_details(
            500,
            resumable=True,
            flags=("memorising",),
            recipe_hash="cc",
            versions={"torch": "2.13.0", "threads": "2"},
        ),
    )
    return dataclasses.replace(made, **changes)


def parsed_after(**changes: Any) -> Manifest:
    values = json.loads(manifest().to_json()) | changes
    return Manifest.from_json(json.dumps(values), "volume/manifest.json")


def test_a_manifest_comes_back_from_its_json() -> None:
    assert Manifest.from_json(manifest().to_json(), "here") == manifest()


def test_its_json_is_what_any_other_program_can_read() -> None:
    values = json.loads(manifest().to_json())
    assert values["format_version"] == 1
    assert values["run"] == "tiny"
    assert values["step"] == 500
    assert values["files"]["model.safetensors"] == {"size": 3, "sha256": "aa"}
    assert values["details"]["model_config"] == toy_config().to_dict()
    assert values["details"]["progress"] == {
        "micro_step": 500,
        "optimizer_step": 500,
        "tokens_seen": 512_000,
        "unit": "optimizer",
    }
    assert values["details"]["metrics"]["val_bits_per_byte"] == 1.5


def test_a_metric_that_is_not_finite_is_left_out_so_that_the_file_stays_json() -> None:
    metrics = {"val_loss": math.nan, "train_loss": math.inf, "val_bits_per_byte": 1.5}
    written = manifest(details=toy_details(500, metrics=metrics)).to_json()
    assert "NaN" not in written
    assert "Infinity" not in written
    read = Manifest.from_json(written, "here")
    assert read.details.metrics == {"val_bits_per_byte": 1.5}


@pytest.mark.parametrize("version", [0, 2, 99, "1", None])
def test_another_format_version_is_refused_by_name_and_place(version: object) -> None:
    with pytest.raises(UnknownFormat, match=rf"volume/manifest\.json: format version {version!r}"):
        parsed_after(format_version=version)


def test_a_future_manifest_need_not_make_sense_to_be_refused_by_its_version() -> None:
    with pytest.raises(UnknownFormat, match="format version 2; this program reads 1"):
        Manifest.from_json('{"format_version": 2, "steps": []}', "here")


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "7", '"text"', "{}", b"\xff\xfe", "[" * 100_000]
)
def test_what_is_no_manifest_is_damaged(text: str | bytes) -> None:
    with pytest.raises(StepDamaged, match="here: not a manifest"):
        Manifest.from_json(text, "here")


@pytest.mark.parametrize("field", ["run", "step", "created_at", "files", "details"])
@pytest.mark.parametrize("value", [None, [], {}, "?", [[]], math.nan, math.inf])
def test_a_malformed_field_is_damaged_or_harmless(field: str, value: object) -> None:
    try:
        read = parsed_after(**{field: value})
    except StepDamaged as error:
        assert "volume/manifest.json: malformed manifest" in str(error)  # noqa: PT017
    else:
        assert field in ("run", "files")
        assert isinstance(read.run, str)


@pytest.mark.parametrize(
    "details",
    [
        {"model_config": {}},
        {"model_config": {"vocab_size": 1}},
        {"progress": {"micro_step": 1}},
        {"progress": None},
        {"flags": None},
        {"metrics": {"val_loss": "low"}},
        {"metrics": None},
        {"unknown": 1},
    ],
    ids=str,
)
def test_malformed_details_are_damaged(details: dict[str, Any]) -> None:
    whole = json.loads(manifest().to_json())["details"]
    with pytest.raises(StepDamaged, match="malformed manifest"):
        parsed_after(details=whole | details)


@examples(300)
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_flipped_byte_of_a_manifest_never_crashes_a_reader(position: int, byte: int) -> None:
    content = bytearray(manifest().to_json().encode())
    content[position % len(content)] = byte
    try:
        read = Manifest.from_json(bytes(content), "here")
    except VolumeError as error:
        assert str(error).startswith("here: ")  # noqa: PT017
    else:
        assert isinstance(read, Manifest)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@examples(200)
@given(
    part=st.sampled_from(["", "details", "files", "model_config", "progress"]),
    key=st.sampled_from(["step", "files", "details", "model_config", "progress", "flags", "size"]),
    value=json_values,
)
def test_any_json_in_any_place_never_crashes_a_reader(part: str, key: str, value: object) -> None:
    values = json.loads(manifest().to_json())
    places = {"": values, "details": values["details"], "files": values["files"]} | {
        name: values["details"][name] for name in ("model_config", "progress")
    }
    places[part][key] = value
    try:
        read = Manifest.from_json(json.dumps(values), "here")
    except VolumeError as error:
        assert str(error).startswith("here: ")  # noqa: PT017
    else:
        assert isinstance(read, Manifest)


def test_the_time_of_writing_is_utc() -> None:
    assert manifest(created_at="1970-01-01T00:01:00.500+00:00").created_timestamp == 60.5


def test_a_milestone_forgets_its_training_state_and_keeps_its_fingerprint() -> None:
    whole, reduced = manifest(), manifest().without_training_state()
    assert reduced.files == {"model.safetensors": WEIGHTS}
    assert whole.details.resumable
    assert not reduced.details.resumable
    assert reduced.details.metrics == whole.details.metrics
    assert reduced.fingerprint == whole.fingerprint


def test_the_fingerprint_changes_with_the_run_the_step_and_the_served_bytes() -> None:
    other_bytes = {"model.safetensors": dataclasses.replace(WEIGHTS, sha256="a0")}
    other_name = {"weights.safetensors": WEIGHTS}
    different = [
        manifest(),
        manifest(run="other"),
        manifest(step=501),
        manifest(files=other_bytes),
        manifest(files=other_name),
    ]
    assert len({each.fingerprint for each in different}) == len(different)


def test_the_fingerprint_does_not_change_with_what_is_said_about_the_step() -> None:
    said = manifest(details=toy_details(1), created_at="2027-01-01T00:00:00+00:00")
    assert said.fingerprint == manifest().fingerprint


@pytest.mark.parametrize("step", [0, 1, 500, 99_999_999, 100_000_000, 10**12])
def test_a_step_and_its_directory_name_each_other(step: int) -> None:
    assert step_number(step_name(step)) == step


def test_names_sort_as_their_steps_do() -> None:
    steps = [9, 10, 99, 100, 1_000, 10_000_000]
    assert sorted(map(step_name, steps)) == [step_name(step) for step in steps]


@pytest.mark.parametrize(
    "name",
    [
        "step-",
        "step-500",
        "step-0000050",
        "step-000000500",
        "step-0000050x",
        "step--0000500",
        "step-00000500.bak",
        "Step-00000500",
        ".tmp-step-00000500",
        ".trash-step-00000500-1",
        ".bad-step-00000500-0",
        "step-" + "\N{ARABIC-INDIC DIGIT FIVE}" * 8,
        "metrics.jsonl",
        "",
    ],
)
def test_a_name_that_no_writer_gives_is_no_step(name: str) -> None:
    assert step_number(name) is None


def test_progress_is_named_field_by_field() -> None:
    with pytest.raises(TypeError):
        Progress(1, 2, 3)  # type: ignore[misc]
