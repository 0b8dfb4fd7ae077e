#!/usr/bin/env python3
"""Fetches the XLA CPU plugin into the user's cache folder. Needs python3 and pip, nothing else.

    python3 scripts/fetch_plugin.py                 fetch it unless it is there (then no network is needed)
    python3 scripts/fetch_plugin.py --wheel FILE    take it from a wheel that was brought along
    python3 scripts/fetch_plugin.py --strict        fail where it cannot be had

The wheel is pinned by version and sha256. It is unpacked beside its final place and renamed, so that a
killed run leaves nothing that looks whole. Where the wheel cannot be had, a warning says that the pure-Go
backend will be used, and the exit code is 0. A wheel with another checksum is never used: exit code 1.
"""

import argparse
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

PACKAGE = "lammps-jax-pjrt-cpu"
VERSION = "0.11.2"
WHEEL = "lammps_jax_pjrt_cpu-0.11.2-py3-none-manylinux_2_27_x86_64.whl"
SHA256 = "1319390d948b39f69f7dade496b7c385149d9ca6097a6b62114da113216d9ad1"
# Member of the wheel -> file in the cache folder, with its size in bytes.
MEMBERS = {
    "lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so": ("pjrt_c_api_cpu_plugin.so", 201600336),
    "lammps_jax_pjrt_cpu-0.11.2.dist-info/licenses/LICENSE": ("LICENSE", 11356),
    "lammps_jax_pjrt_cpu-0.11.2.dist-info/licenses/THIRD_PARTY_NOTICES": ("THIRD_PARTY_NOTICES", 251851),
}


class Unavailable(Exception):
    """The plugin cannot be had on this machine; the pure-Go backend can still do the work."""


class Corrupt(Exception):
    """The wheel is not the pinned one."""


def say(message):
    print(f"fetch_plugin: {message}", file=sys.stderr)


def plugins_folder():
    """<user's cache>/fewstep/plugins, where fewstep looks for plugins."""
    cache = os.environ.get("XDG_CACHE_HOME")
    if not cache or not os.path.isabs(cache):
        home = os.environ.get("HOME") or os.path.expanduser("~")
        cache = os.path.join(home, ".cache")
    return pathlib.Path(cache) / "fewstep" / "plugins"


def is_complete(folder):
    """Whether every file is there with its full size."""
    for name, size in MEMBERS.values():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return False
    return True


def download(folder):
    """Downloads the wheel with pip and returns its path."""
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
        "--disable-pip-version-check", "--quiet", "--dest", str(folder), f"{PACKAGE}=={VERSION}",
    ]
    say(f"downloading {PACKAGE} {VERSION} (63 MB)")
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stdout.strip().splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"exit code {done.returncode}"
        if "No module named pip" in done.stdout:
            reason = "pip is missing (Debian and Ubuntu: apt-get install python3-pip)"
        raise Unavailable(f"pip could not download {PACKAGE}=={VERSION}: {reason}")
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1 or wheels[0].name != WHEEL:
        raise Unavailable(f"pip delivered {[w.name for w in wheels]}, not {WHEEL}")
    return wheels[0]


def verify(wheel):
    digest = hashlib.sha256()
    with open(wheel, "rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != SHA256:
        raise Corrupt(f"{wheel.name} has sha256 {digest.hexdigest()}, not the pinned {SHA256}: it was not used")


def unpack(wheel, folder):
    """Writes the wheel's members into folder and flushes them to the disk."""
    with zipfile.ZipFile(wheel) as archive:
        for member, (name, size) in MEMBERS.items():
            with archive.open(member) as source, open(folder / name, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
            if (folder / name).stat().st_size != size:
                raise Corrupt(f"{member} in {wheel.name} is not {size} bytes long")
    (folder / "pjrt_c_api_cpu_plugin.so").chmod(0o755)


def install(wheel):
    plugins = plugins_folder()
    final = plugins / f"{PACKAGE}-{VERSION}"
    if is_complete(final):
        say(f"the XLA CPU plugin is there: {final}")
        return
    if wheel is None and (sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64")):
        raise Unavailable(f"there is no pinned plugin for {sys.platform} on {platform.machine()}")
    plugins.mkdir(parents=True, exist_ok=True)
    for left in plugins.glob(".fetch-*"):  # of runs that were killed
        if time.time() - left.stat().st_mtime > 24 * 3600:
            shutil.rmtree(left, ignore_errors=True)
    # Two levels down, where fewstep does not look for plugins.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=plugins) as work:
        work = pathlib.Path(work)
        unpacked = work / "unpacked"
        unpacked.mkdir()
        unpacked.chmod(0o755)
        if wheel is None:
            wheel = download(work)
        verify(wheel)
        unpack(wheel, unpacked)
        if final.exists() and not is_complete(final):
            final.rename(work / "incomplete")
        try:
            unpacked.rename(final)
        except OSError:
            if not is_complete(final):  # another run was first
                raise
    say(f"the XLA CPU plugin is now in {final}")


def main():
    parser = argparse.ArgumentParser(description="Fetches the XLA CPU plugin into the user's cache folder.")
    parser.add_argument("--wheel", type=pathlib.Path, help=f"take it from this file ({WHEEL}) instead of downloading it")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where the plugin cannot be had")
    arguments = parser.parse_args()
    try:
        install(arguments.wheel)
    except Corrupt as problem:
        say(f"error: {problem}")
        return 1
    except (Unavailable, OSError, zipfile.BadZipFile) as problem:
        say(f"warning: {problem}")
        say("the XLA CPU plugin was not installed: fewstep will use its pure-Go backend, which is many times slower")
        say(f"to install it later: python3 scripts/fetch_plugin.py, or --wheel {WHEEL}")
        return 1 if arguments.strict else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
