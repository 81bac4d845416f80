"""The examples, run as they are."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
import tttd_client

EXAMPLES = pathlib.Path(__file__).resolve().parents[3] / "client" / "python" / "examples"


def run(name, address, *args):
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / name), "--server", address, *args],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    return ran.stdout


def test_chat_is_one_session(address):
    out = run("chat.py", address, "It was late", "By noon")
    assert out.count("> ") == 2
    assert re.search(r"\[revision 1, \d+ tokens\]", out)
    assert re.search(r"\[revision 2, \d+ tokens\]\n$", out)


def test_forks_differ_and_leave_their_parent(address):
    lines = run("fork.py", address, "--forks", "3").splitlines()
    ends = [line.split(": ", 1)[1] for line in lines[1:4]]
    assert len(set(ends)) == 3
    assert lines[4] == "the session is still at revision 1"


def test_fan_out_runs_all(address):
    lines = run("fan_out.py", address, "--turns", "6").splitlines()
    assert [line.split(":")[0] for line in lines[:6]] == list("012345")
    assert re.fullmatch(r"\d+ tokens in [\d.]+ s", lines[6])


def test_errors_are_told_apart(address):
    assert run("errors.py", address).splitlines()[:2] == [
        "first: revision 1",
        "somebody else has spoken: revision 1, not 0",
    ]
    assert "InvalidRequest: " in run("errors.py", address)
    assert run("errors.py", address).endswith("SessionNotFound: gone with its block\n")


@pytest.mark.parametrize("readme", ["README.md", "client/python/README.md"])
def test_code_in_the_readme_runs(readme, address, capsys):
    text = (EXAMPLES.parents[2] / readme).read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block.replace("127.0.0.1:50051", address), {})
    assert capsys.readouterr().out
    with tttd_client.Client(address) as client:
        client.delete_session("walk")


def test_every_example_is_run_here():
    here = pathlib.Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'run("{path.name}"' in here


def test_examples_are_typed():
    pytest.importorskip("mypy")
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, *EXAMPLES.glob("*.py")],
        capture_output=True,
        text=True,
        cwd=EXAMPLES.parent,
    )
    assert ran.returncode == 0, ran.stdout
