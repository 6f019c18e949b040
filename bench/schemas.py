"""How many of a folder's JSON schemas the service takes, and why it refuses the others.

Each ``*.json`` file is one schema, checked as a request's ``response_format`` is. ``--sample N``
takes so many files of each subfolder (by a hash of the path, the same ones everywhere).
"""

import argparse
import hashlib
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from lm.text.tokenizer import Tokenizer
from service.engine.structure.constraint import schema_grammar
from service.engine.structure.grammars import Grammars

MAX_KIND = 90
"""Characters of a reason that count as its kind."""
_NAMES = re.compile(r'"[^"]*"|\'[^\']*\'|\[[^\]]*\]|`[^`]*`|\d+|#/\S+')
"""What differs between two refusals of one kind, but the keys that are not known."""


def main() -> None:
    """Count, print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a model's directory")
    parser.add_argument("--sample", type=int, help="files of each subfolder; by default all")
    parser.add_argument("--list", action="store_true", help="name each file that is refused")
    given = parser.parse_args()
    grammars = Grammars(Tokenizer.load(given.tokenizer))
    paths = sampled(sorted(given.folder.rglob("*.json")), given.sample)
    refused: Counter[str] = Counter()
    took = []
    for path in paths:
        begun = time.perf_counter()
        reason = refusal(grammars, path)
        took.append(time.perf_counter() - begun)
        if reason is not None:
            refused[kind(reason)] += 1
            if given.list:
                print(f"{path.relative_to(given.folder)}: {reason}")
    print(f"{len(paths)} schemas, {refused.total()} refused")
    for reason, count in refused.most_common():
        print(f"{count:6}  {reason}")
    took.sort()
    print(
        json.dumps(
            {
                "schemas": len(paths),
                "refused": refused.total(),
                "reasons": dict(refused.most_common()),
                "median_ms": round(1e3 * took[len(took) // 2], 2),
                "p99_ms": round(1e3 * took[int(len(took) * 0.99)], 1),
            }
        )
    )


def sampled(paths: Iterable[Path], count: int | None) -> list[Path]:
    """So many paths of each folder."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        by_folder[path.parent].append(path)
    return [path for those in by_folder.values() for path in sorted(those, key=_hash)[:count]]


def refusal(grammars: Grammars, path: Path) -> str | None:
    """Why a schema is refused; ``None`` if it is taken."""
    try:
        schema = json.loads(path.read_text("utf-8"))
        if not isinstance(schema, dict):
            return "no object"
        grammars.check(schema_grammar(schema))
    except ValueError as error:
        return str(error)
    return None


def kind(reason: str) -> str:
    """A reason without what is this schema's alone."""
    if reason.startswith("Unimplemented keys"):
        return reason[:MAX_KIND]
    return _NAMES.sub("…", reason)[:MAX_KIND]


def _hash(path: Path) -> Sequence[str]:
    return hashlib.sha256(path.name.encode()).hexdigest()


if __name__ == "__main__":
    main()
