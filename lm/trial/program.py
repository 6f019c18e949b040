"""``python -m lm.trial.program``: tries the tokenizer files that standard input gives.

It bounds itself before it reads anything, offers itself first to whoever needs memory, and says
one JSON object: that all is well, or which part is refused and why.
"""

import contextlib
import json
import os
import pickle
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from lm.tokenizer import Tokenizer

CPU_S = 30
"""Of all of it; the largest vocabularies load in 3 s."""
FIRST_TO_GO = "1000"
"""``oom_score_adj`` of proc(5): short of memory, the system ends this process and no other."""
CHATS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "Hello"),),
    (("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi."), ("user", "Why? " * 200)),
    tuple((("user", "assistant")[turn % 2], "Go on.") for turn in range(41)),
)


def main() -> NoReturn:
    """Try what standard input has; the status is 0 whenever there is an answer."""
    memory_bytes = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO, "ascii")
    where, name, contents = pickle.load(sys.stdin.buffer)  # noqa: S301  from our own parent
    sys.stdout.write(json.dumps(tried(Path(where), name, contents)))
    sys.stdout.flush()
    os._exit(0)  # taking a vocabulary apart is a tenth of the time


def tried(where: Path, name: str, contents: Mapping[str, bytes]) -> dict[str, str]:
    """What is wrong: empty, ``invalid`` with a message, or a refused part with one."""
    from lm.panics import LibraryPanic
    from lm.side_files import SideFiles
    from lm.tokenizer import Tokenizer
    from lm.trial.rules import Exceeds, check

    try:
        tokenizer = Tokenizer.read(SideFiles.given(where, contents), name)
        check(tokenizer)
    except (LibraryPanic, Exceeds) as error:
        return {"part": "tokenizer", "message": str(error)}
    except MemoryError:
        return {"part": "tokenizer", "message": "it takes more memory than it may"}
    except ValueError as error:
        return {"invalid": str(error)}
    if tokenizer.chat_template is None:
        return {}
    return _template_tried(tokenizer)


def _template_tried(tokenizer: "Tokenizer") -> dict[str, str]:
    from lm.chat import chat_prompt
    from lm.template import TemplateExceeds

    for chat in CHATS:
        messages = [{"role": role, "content": content} for role, content in chat]
        try:
            chat_prompt(tokenizer, messages)
        except TemplateExceeds as error:
            return {"part": "chat_template", "message": str(error)}
        except ValueError:
            continue  # which chats it takes is its own matter
    return {}


if __name__ == "__main__":
    main()
