"""Print the n-th fenced block of a Markdown file: python3 readme_block.py README.md 2"""

import re
import sys
from pathlib import Path


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block, in order."""
    return re.findall(r"^```(\S*)[^\n]*\n(.*?)^```\s*$", text, flags=re.MULTILINE | re.DOTALL)


if __name__ == "__main__":
    _, content = blocks(Path(sys.argv[1]).read_text(encoding="utf-8"))[int(sys.argv[2]) - 1]
    print(content, end="")
