"""The wheel has the library in it, built by cargo from the sources around this folder.

FOREBAY_LIBRARY=FILE puts one that is built already into it instead.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sysconfig

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

SOURCE = pathlib.Path(__file__).resolve().parent.parent


class Version(MetadataHookInterface):
    PLUGIN_NAME = "custom"

    def update(self, metadata):
        cargo = (SOURCE / "Cargo.toml").read_text()
        metadata["version"] = re.search(r'^version = "(.+)"$', cargo, re.MULTILINE)[1]


class Library(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version, build_data):
        if self.target_name != "wheel":
            return
        library = os.environ.get("FOREBAY_LIBRARY") or self._built()
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        build_data["pure_python"] = False
        into = "forebay/libforebay.so"
        if version == "editable":
            # Beside the sources, where the package looks for it.
            shutil.copyfile(library, pathlib.Path(self.root, into))
        else:
            build_data["force_include"][library] = into

    def _built(self):
        cargo = shutil.which("cargo")
        if cargo is None:
            raise SystemExit("forebay is built with Rust, and there is no cargo: https://rustup.rs")
        subprocess.run(
            [cargo, "build", "--release", "--locked", "-p", "forebay"], cwd=SOURCE, check=True
        )
        target = os.environ.get("CARGO_TARGET_DIR", SOURCE / "target")
        return str(pathlib.Path(target, "release/libforebay.so"))
