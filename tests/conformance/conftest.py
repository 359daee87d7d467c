"""The differential tests: the same calls on Debian's pcscd and on ours."""

import sys
from pathlib import Path

# pytest imports by path (importlib mode), so the helpers beside this file need a path of their own,
# and so do those of the integration tests, which are used here too
for folder in (Path(__file__).parent, Path(__file__).parent.parent / "integration"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
