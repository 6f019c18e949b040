from pathlib import Path

import pytest

from trainer.recipe.recipes import list_recipes, load_recipe, override


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_that_comes_with_nestling_loads_and_bears_its_file_s_name(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


def test_tiny_is_one_of_them_and_has_about_two_million_parameters() -> None:
    assert 1.5e6 < load_recipe("tiny").model.num_parameters < 3e6


def test_a_path_is_read_like_a_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    shipped = Path(__file__).parents[4] / "trainer" / "recipe" / "recipes" / "tiny.yaml"
    path.write_bytes(shipped.read_bytes())
    assert load_recipe(str(path)) == load_recipe("tiny")


def test_an_unknown_name_is_refused_with_its_nearest_neighbour() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'tyny'; did you mean 'tiny'\?"):
        load_recipe("tyny")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: x\nnmae: y\n", "mine.yaml: unknown key 'nmae'; did you mean 'name'"),
        (b"\xff", "mine.yaml: not UTF-8 text"),
        (None, "mine.yaml: No such file or directory"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_by_name(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_recipe(str(path))


def test_overrides_replace_values_of_any_depth() -> None:
    recipe = override(
        load_recipe("tiny"),
        ["optimizer.lr=1e-3", "phases.0.steps=7", "sample_prompts=[a, b]", "sample_prompts.1=c"],
    )
    assert recipe.optimizer.lr == 1e-3
    assert recipe.phases[0].steps == 7
    assert recipe.sample_prompts == ("a", "c")


def test_no_overrides_change_nothing() -> None:
    assert override(load_recipe("tiny"), []) == load_recipe("tiny")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.lrr=1", "optimizer: unknown key 'lrr'; did you mean 'lr'"),
        ("optimzer.lr=1", "optimzer.lr: there is no 'optimzer'; did you mean 'optimizer'"),
        ("phases.1.steps=1", "phases.1.steps: there is no '1'"),
        ("phases.x=1", "phases.x: there is no 'x'"),
        ("seed.x=1", "seed.x: there is no 'x'"),
        ("seed", "'seed' is not of the form KEY=VALUE"),
        ("seed=[", "broken YAML"),
    ],
)
def test_overrides_are_strict(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        override(load_recipe("tiny"), [assignment])
    assert "\n" not in str(error.value)
