"""Nothing hinders another system: no fork, no shell, no fixed places; and optional parts may be missing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = [*(ROOT / "src").rglob("*.py"), ROOT / "start_adaptive_training.py", *(ROOT / "training").rglob("*.py")]
ONLY_UNIX = {"fork", "forkpty", "system", "popen", "getuid", "geteuid", "setsid", "killpg", "mkfifo", "wait3", "nice"}
ONLY_UNIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "syslog"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}


def findings(source: str) -> list[str]:
    """What hinders another system, or starts a shell."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"imports {name}" for name in names if name.split(".")[0] in ONLY_UNIX_MODULES]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in SHELLS or (name.startswith("os.") and name[3:] in ONLY_UNIX):
                found.append(f"calls {name}")
            for keyword in node.keywords:
                is_shell = keyword.arg == "shell" and ast.unparse(keyword.value) != "False"
                is_fork = keyword.arg == "multiprocessing_context" and ast.unparse(keyword.value) != "'spawn'"
                if is_shell or is_fork or keyword.arg == "preexec_fn":
                    found.append(f"{keyword.arg}={ast.unparse(keyword.value)}")
            if name.endswith("get_context") and [ast.unparse(a) for a in node.args] != ["'spawn'"]:
                found.append(f"{name} other than spawn")
            if name.endswith("DataLoader") and not any(k.arg == "multiprocessing_context" for k in node.keywords):
                found.append("a DataLoader without a context")
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(("/tmp", "C:\\")):
            found.append(f"the place {node.value}")
    return found


BRANCHES = {"imports fcntl": 'os.name == "nt"', ".get_context other than spawn": "get_all_start_methods()"}
"""What one system has may be used where another way is taken on the others: the words that choose between them."""


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_product_runs_anywhere_and_starts_no_shell(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    for finding in findings(source):
        choice = next((words for end, words in BRANCHES.items() if finding.endswith(end)), None)
        assert choice is not None and choice in source, finding


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.fork()", "import os\nos.system('ls')", "import subprocess as s\ns.run('a', shell=True)",
        "import fcntl", "from resource import getrusage", "x = '/tmp/x'", "DataLoader(a)",
        "get_context('fork')", "get_context()", "Popen(a, preexec_fn=f)",
        "DataLoader(a, multiprocessing_context='fork')",
    ],
)  # fmt: skip
def test_the_check_sees_what_it_looks_for(source: str) -> None:
    assert findings(source)


def test_it_imports_without_its_optional_parts_and_says_what_is_missing(tmp_path: Path) -> None:
    """A finder that knows none of them stands for a small install."""
    (tmp_path / "m.nd2").write_bytes(b"no movie")
    program = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nd2", "schedulefree", "prodigyopt", "sklearn", "atheris", "imagecodecs"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import adaloc.cli
from adaloc.errors import AdalocError
from adaloc.localize.movie import open_movie
try:
    open_movie(__import__("pathlib").Path({str(tmp_path / "m.nd2")!r}))
except AdalocError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert "pip install nd2" in said
