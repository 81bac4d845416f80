"""How the package is built, and that it is typed.

Nothing is fetched here: what builds the package is in the environment.
"""

import email
import pathlib
import subprocess
import sys
import tarfile
import zipfile

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[3] / "client" / "python"
PROTOS = ["admin", "inference", "sessions", "tokenizer"]


def pip(*args):
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *args], check=True
    )


def build_wheel(source, out):
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(out), source)
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    with build_wheel(str(PACKAGE), tmp_path_factory.mktemp("wheel")) as wheel:
        yield wheel


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    out = tmp_path_factory.mktemp("sdist")
    build = "import sys, setuptools.build_meta as b; b.build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(out)], cwd=PACKAGE, check=True, stdout=subprocess.DEVNULL
    )
    (archive,) = out.glob("*.tar.gz")
    return archive


def content(wheel):
    return {name: wheel.read(name) for name in wheel.namelist() if name.startswith("tttd_client/")}


def test_wheel_holds_the_messages_their_types_and_the_sign_that_it_is_typed(wheel):
    names = wheel.namelist()
    for proto in PROTOS:
        assert f"tttd_client/_proto/ttt/v1/{proto}_pb2.py" in names
        assert f"tttd_client/_proto/ttt/v1/{proto}_pb2.pyi" in names
    assert "tttd_client/py.typed" in names


def test_wheel_holds_one_package_and_no_google_rpc(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tttd_client"}
    assert not [name for name in wheel.namelist() if "google" in name]


def test_source_distribution_holds_the_protos_and_builds_the_same(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {f"proto/ttt/v1/{proto}.proto" for proto in PROTOS} <= names
    with build_wheel(str(sdist), tmp_path) as rebuilt:
        assert content(rebuilt) == content(wheel)


def test_modules_that_are_gone_do_not_go_into_the_wheel(tmp_path):
    stale = PACKAGE / "build" / "lib" / "tttd_client" / "gone.py"
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.touch()
    with build_wheel(str(PACKAGE), tmp_path) as wheel:
        assert "tttd_client/gone.py" not in wheel.namelist()


def test_version_is_that_of_the_daemon(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    version = email.message_from_bytes(wheel.read(name))["Version"]
    cmake = (PACKAGE.parents[1] / "CMakeLists.txt").read_text()
    assert f"project(tttd VERSION {version} " in cmake


def test_sources_are_typed_strictly():
    pytest.importorskip("mypy")
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", "/dev/null"],
        capture_output=True,
        text=True,
        cwd=PACKAGE,
    )
    assert ran.returncode == 0, ran.stdout
