"""``python -m lm.trial.program``: tries what standard input gives, each in a process of its own.

It has imported what trials need and forks for each: a trial bounds itself before it reads anything,
gives way to whoever serves, and offers itself first where memory is short. What a trial says is a
JSON object, empty where all is well; the program says a line with it and the trial's exit status,
and ends with its input.
"""

import contextlib
import json
import os
import pickle
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

from lm.panics import LibraryPanic
from lm.side_files import SideFiles
from lm.template import TemplateExceeds
from lm.text.chat import chat_prompt, why_no_template
from lm.text.tokenizer import Tokenizer
from lm.text.tokenizer_files import TEMPLATE_FILE, TOKENIZER_CONFIG_FILE
from lm.trial.helper import HEAD_BYTES
from lm.trial.rules import Exceeds, check

CPU_S = 30
"""Of a trial; the largest vocabularies load in 3 s."""
NICER_BY = 10
FIRST_TO_GO = "1000"
"""``oom_score_adj`` of proc(5): short of memory, the system ends this process and no other."""
CHATS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "Hello"),),
    (("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi."), ("user", "Why? " * 200)),
    tuple((("user", "assistant")[turn % 2], "Go on.") for turn in range(41)),
)


def main() -> int:
    """Answer until the input ends."""
    while head := sys.stdin.buffer.read(HEAD_BYTES):
        request = sys.stdin.buffer.read(int.from_bytes(head, "little"))
        answer, code = _in_child(request)
        sys.stdout.write(json.dumps({"answer": answer, "code": code}) + "\n")
        sys.stdout.flush()
    return 0


def _in_child(request: bytes) -> tuple[str, int]:
    """What a trial says, and its exit status, which is negative for a signal."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1  # an error of ours; what a trial finds wrong is an answer
        try:
            os.close(reading)
            os.write(writing, json.dumps(_bounded(request)).encode())
            code = 0
        finally:
            os._exit(code)  # taking a vocabulary apart is a tenth of the time
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    return answer, os.waitstatus_to_exitcode(status)


def _bounded(request: bytes) -> dict[str, str]:
    memory_bytes, where, name, contents = pickle.loads(request)  # noqa: S301  of our own parent
    with contextlib.suppress(ValueError, OSError):  # macOS refuses what is below its mappings
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICER_BY)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO, "ascii")
    return tried(Path(where), name, contents)


def tried(where: Path, name: str, contents: Mapping[str, bytes]) -> dict[str, str]:
    """What is wrong: empty, ``invalid`` with a message, or a refused part with one."""
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
    if why := why_no_template(tokenizer.chat_template):
        file = TEMPLATE_FILE if TEMPLATE_FILE in contents else TOKENIZER_CONFIG_FILE
        return {"invalid": f"{Path(where) / file}: the chat template cannot be read: {why}"}
    return _template_tried(tokenizer)


def _template_tried(tokenizer: Tokenizer) -> dict[str, str]:
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
    sys.exit(main())
