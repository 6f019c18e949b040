"""``python as_nobody.py VOLUME``: looks at a run, gives up every right, and looks at another.

Prints what then serves, and what was refused. Everything is imported and used once before, since
this user may not be allowed to read the program's files.
"""

import os
import sys
from pathlib import Path

from serving.manual_watcher import Watching

NOBODY = 65534

volume = Path(sys.argv[1])
assert Watching(volume, "first").look() == ["first@1"]
os.setgroups([])
os.setgid(NOBODY)
os.setuid(NOBODY)
watching = Watching(volume, "second")
sys.stdout.write(f"{watching.look()} {watching.refused}\n")
