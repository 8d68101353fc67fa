"""The client that docs/PROTOCOL.md ends with, as a reader gets it from there.

    page.py DIRECTORY    empties it and puts in what the page says: the generated code and client.py
"""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "PROTOCOL.md"
HEADING = "## A client in Python\n"


def blocks() -> tuple[str, str]:
    """The commands and the program."""
    section = PAGE.read_text().partition(HEADING)[2]
    found = dict(re.findall(r"^```(sh|python)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    return found["sh"], found["python"]


def unpack(directory: Path):
    """Does what the page tells, but for installing packages and running the client."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    commands, program = blocks()
    (directory / "proto").symlink_to(ROOT / "proto")
    (directory / "client.py").write_text(program)
    for command in commands.replace("\\\n", " ").splitlines():
        words = command.split()
        if words[:3] == ["python3", "-m", "grpc_tools.protoc"]:
            subprocess.run([sys.executable, *words[1:]], cwd=directory, check=True)


def client(directory: str):
    """The program as a module."""
    sys.path.insert(0, directory)
    return importlib.import_module("client")


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
