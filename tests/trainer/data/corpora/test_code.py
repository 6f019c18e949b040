from pathlib import Path

from trainer.data.corpora import code
from trainer.recipe.sections import SourceConfig

SOURCE = SourceConfig(name="code", corpus="code", validation_fraction=0.2)


def test_the_standard_library_is_read_in_a_fixed_order_and_its_tail_held_out() -> None:
    split = code.read(SOURCE)
    assert split == code.read(SOURCE)
    assert len(split.train) > 300
    held_out = sum(map(len, split.validation))
    assert 0.2 <= held_out / (held_out + sum(map(len, split.train))) < 0.25
    assert any("class JSONDecoder" in document for document in split.train)


def test_tests_packages_generated_and_broken_files_are_left_out(tmp_path: Path) -> None:
    for name in ("b.py", "a/z.py", "a/test/t.py", "site-packages/p.py", "_sysconfigdata_x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n", "utf-8")
    (tmp_path / "empty.py").touch()
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    (tmp_path / "link.py").symlink_to(tmp_path / "b.py")
    names = [path.relative_to(tmp_path).as_posix() for path in code.source_files(tmp_path)]
    assert names == ["a/z.py", "b.py"]
