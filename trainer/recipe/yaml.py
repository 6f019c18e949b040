"""YAML without its silent traps: a key that is given twice is refused, not overwritten.

So is half a character (``"\\ud800"``), which no output can show.
"""

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """``SafeLoader`` that compares the keys of every mapping."""


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if key_node.value in seen:
            line = key_node.start_mark.line + 1
            raise yaml.MarkedYAMLError(
                problem=f"key {key_node.value!r} is there twice, line {line}"
            )
        seen.add(key_node.value)
    return loader.construct_mapping(node, deep=True)


def _whole_text(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = loader.construct_scalar(node)
    assert isinstance(text, str), "a scalar's"
    if any("\ud800" <= character <= "\udfff" for character in text):  # no file can hold it
        line = node.start_mark.line + 1
        raise yaml.MarkedYAMLError(problem=f"half a character, line {line}")
    return text


_Loader.add_constructor("tag:yaml.org,2002:str", _whole_text)
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def parse(text: str) -> dict[str, Any]:
    """Content of a YAML mapping; raises ``ValueError`` in one line if it is none."""
    values = parse_value(text)
    if not isinstance(values, dict):
        raise ValueError(f"expected keys and values, got {type(values).__name__}")
    return values


def parse_value(text: str) -> Any:
    """Any YAML value; raises ``ValueError`` in one line for broken YAML."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError("broken YAML: " + " ".join(str(error).split())) from error
