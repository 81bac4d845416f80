"""Makes the messages of ttt.v1 from the protos while the package is built.

The protos are those of the tree that this folder is part of; a source
distribution carries copies of them. google/rpc is left out: the package
googleapis-common-protos has it.
"""

import os
import pathlib
import shutil

import setuptools
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = pathlib.Path(__file__).resolve().parent


def proto_root():
    for root in (HERE / "proto", HERE.parent.parent / "proto"):
        if (root / "ttt" / "v1" / "inference.proto").is_file():
            return root
    raise SystemExit(
        f"tttd_client: no ttt/v1/inference.proto in {HERE / 'proto'} or "
        f"{HERE.parent.parent / 'proto'}; build in the tree of tttd, or from "
        "a source distribution"
    )


def protos(root):
    return sorted((root / "ttt" / "v1").glob("*.proto"))


def generate(out):
    import grpc_tools
    from grpc_tools import protoc

    root = proto_root()
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    code = protoc.main(
        ["protoc", f"-I{root}", f"-I{well_known}", f"--python_out={out}"]
        + [f"--pyi_out={out}"]
        + [str(proto) for proto in protos(root)]
    )
    if code != 0:
        raise SystemExit(f"tttd_client: protoc ended with {code}")
    for package in (out / "ttt", out / "ttt" / "v1"):
        (package / "__init__.py").touch()


class BuildWithMessages(build_py):
    def run(self):
        if not self.editable_mode:
            # Modules that are gone would go into the wheel.
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        source = HERE / "src" if self.editable_mode else self.build_lib
        out = pathlib.Path(source) / "tttd_client" / "_proto"
        out.mkdir(parents=True, exist_ok=True)
        generate(out)


class SdistWithProtos(sdist):
    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        root = proto_root()
        for proto in protos(root):
            target = pathlib.Path(base_dir) / "proto" / proto.relative_to(root)
            os.makedirs(target.parent, exist_ok=True)
            shutil.copyfile(proto, target)


setuptools.setup(cmdclass={"build_py": BuildWithMessages, "sdist": SdistWithProtos})
