#!/usr/bin/env python3
"""Prints the path of a Python that has interop/requirements.txt, and makes one where there is none.

    python3 scripts/interop_python.py             this Python where it has every pinned version, else a virtual
                                                  environment in the user's cache folder, filled by pip

The environment's folder is named by the hash of the requirements, and a file in it is written last: a killed
installation is done again. PyTorch is some gigabytes; pip's own cache and indexes are used as they are set up.
"""

import hashlib
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import venv

REQUIREMENTS = pathlib.Path(__file__).resolve().parent.parent / "interop" / "requirements.txt"


def say(message):
    print(f"interop_python: {message}", file=sys.stderr)


def pinned():
    """{package: version} of the requirements."""
    lines = [line.strip() for line in REQUIREMENTS.read_text().splitlines()]
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def is_complete(requirements):
    """Whether the running Python has every package; PyTorch's local version ("+cpu") does not count."""
    for package, version in requirements.items():
        try:
            if importlib.metadata.version(package).split("+")[0] != version:
                return False
        except importlib.metadata.PackageNotFoundError:
            return False
    return True


def cache_folder():
    cache = os.environ.get("XDG_CACHE_HOME")
    if not cache or not os.path.isabs(cache):
        cache = os.path.join(os.environ.get("HOME") or os.path.expanduser("~"), ".cache")
    return pathlib.Path(cache) / "fewstep"


def main():
    if is_complete(pinned()):
        print(sys.executable)
        return
    tag = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = cache_folder() / f"interop-{tag}"
    python, done = folder / "bin" / "python", folder / "complete"
    if not done.exists():
        say(f"installing {', '.join(pinned())} into {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS],
                       check=True, stdout=sys.stderr)
        done.touch()
    print(python)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as e:
        say(f"pip failed with exit code {e.returncode}: the interop test needs the packages of {REQUIREMENTS}")
        sys.exit(1)
