"""Every module can be imported without Unix-only modules and functions, as on Windows."""

SCRIPT = """
import builtins, os, pkgutil, select, signal
import cmd_lightning

original = builtins.__import__


def guarded(name, names=None, *more):
    ours = (names or {}).get("__name__", "").startswith("cmd_lightning")
    if ours and name in ("fcntl", "grp", "pwd", "resource", "termios"):
        raise ModuleNotFoundError(f"No module named {name!r}")
    return original(name, names, *more)


builtins.__import__ = guarded
for name in ("pread", "pwrite", "sched_getaffinity", "getuid"):
    delattr(os, name)
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL"):
    delattr(signal, name)
del select.poll


def stop(name):
    raise


for module in pkgutil.walk_packages(cmd_lightning.__path__, "cmd_lightning.", stop):
    if not module.name.endswith("__main__"):
        __import__(module.name)
        print(module.name)
"""


def test_modules_are_imported_without_those_of_unix(python):
    done = python.run("-c", SCRIPT)
    assert done.returncode == 0, done.stderr
    found = set(done.stdout.split())
    assert found >= {f"cmd_lightning.{name}" for name in ("data.cache", "callbacks.throughput", "zoo.motion.dit")}
