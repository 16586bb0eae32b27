"""Every module can be imported where the modules and calls of Unix are missing, as on Windows."""

import cmd_lightning

SCRIPT = """
import builtins, os, pkgutil, select, signal, sys
import cmd_lightning

original = builtins.__import__

def guarded(name, globals=None, *more):
    if name in ("fcntl", "grp", "pwd", "resource", "termios") and (globals or {}).get("__name__", "").startswith("cmd_"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return original(name, globals, *more)

builtins.__import__ = guarded
for module, names in ((os, "pread pwrite sched_getaffinity getuid"), (select, "poll"), (signal, "SIGUSR1 SIGUSR2 SIGHUP SIGKILL")):
    for name in names.split():
        delattr(module, name)
failed = []
modules = pkgutil.walk_packages(cmd_lightning.__path__, "cmd_lightning.", onerror=failed.append)
for module in modules:
    if not module.name.endswith("__main__"):
        __import__(module.name)
        print(module.name)
assert not failed, failed
"""


def test_modules_of_unix_are_not_needed(python):
    done = python.run("-c", SCRIPT)
    assert done.returncode == 0, done.stderr
    found = done.stdout.split()
    assert {"cmd_lightning.data.cache", "cmd_lightning.callbacks.throughput", "cmd_lightning.zoo.motion.dit"} <= set(found)
