import pytest

from trainer.recipe.yaml import parse, parse_value


def test_a_mapping_is_parsed_to_plain_data() -> None:
    assert parse("a: 1\nb: [x, {c: null}]\n") == {"a": 1, "b": ["x", {"c": None}]}


def test_single_values_are_parsed_as_yaml_does() -> None:
    assert [parse_value(text) for text in ("3", "true", "[1, 2]", "x")] == [3, True, [1, 2], "x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "key 'a' is there twice, line 2"),
        ("a: {b: 1, b: 1}\n", "key 'b' is there twice, line 1"),
        ("a: [1\n", "broken YAML"),
        ("- a\n", "expected keys and values, got list"),
        ("", "expected keys and values, got NoneType"),
        ("a: !!python/object:os.system {}", "broken YAML"),
    ],
)
def test_what_is_no_plain_mapping_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse(text)
    assert "\n" not in str(error.value)


def test_half_a_character_is_refused_by_its_line() -> None:
    with pytest.raises(ValueError, match="broken YAML: half a character, line 2"):
        parse('a: 1\nb: {"c": ["\\ud800"]}')
