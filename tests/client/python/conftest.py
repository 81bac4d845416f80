"""Real daemons on free ports of the loopback, one for each set of flags."""

import os
import pathlib
import re
import subprocess

import pytest

TREE = pathlib.Path(__file__).resolve().parents[3]
TTTD = os.environ["TTTD"]

# Between gRPC and the daemon stands no proxy.
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1"


class Daemon:
    """tttd, until stop(). The bundled model, if the flags name none."""

    def __init__(self, *flags):
        self._process = subprocess.Popen(
            [TTTD, "--listen=127.0.0.1:0", "--http_listen=", *flags],
            cwd=TREE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        log = []
        for line in self._process.stdout:
            log.append(line)
            found = re.search(r" listening port=(\d+) http_port=(\d+)", line)
            if found:
                self.address = f"127.0.0.1:{found[1]}"
                self.http_address = f"127.0.0.1:{found[2]}"
                return
        raise RuntimeError("tttd did not start:\n" + "".join(log))

    def stop(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="session")
def daemon():
    daemon = Daemon("--model=models/ttt-linear-14m-books")
    yield daemon
    daemon.stop()


@pytest.fixture
def address(daemon):
    return daemon.address


@pytest.fixture
def start_daemon():
    """Starts further ones, which end with the test."""
    started = []

    def start(*flags):
        daemon = Daemon(*flags)
        started.append(daemon)
        return daemon

    yield start
    for daemon in started:
        daemon.stop()
