"""Python programs that start at once: forks of a process that has imported the libraries, but nothing of this project.

Importing torch, lightning and diffusers costs 7 s of CPU time per process, and the tests start many. So one process,
the fork server, imports the libraries once, and `Python.run` replaces `subprocess.run([sys.executable, ...])`: it runs
each program in a fork of that process.

For `devices=2` a program starts itself again by `subprocess.Popen`, in Lightning's launcher. A fork of it at that point
would copy what it has computed, and its threads' locks. So each program is forked `SPARE` more times before it begins;
these forks (`Child`) wait, and the launcher's `Popen` is replaced by `Child.start`, which lets one of them continue.
"""

import atexit
import contextlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import traceback
import types
from pathlib import Path
from typing import ClassVar

LIBRARIES = (
    *("av", "diffusers", "jsonargparse", "lightning", "matplotlib", "open_clip", "torch", "torch._dynamo"),
    *("torchmetrics", "torchvision", "transformers", "webdataset", "yaml"),
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.pipelines.pipeline_utils",
    "lightning.pytorch.cli",
    "lightning.pytorch.strategies.launchers.subprocess_script",
    "transformers.models.clip.modeling_clip",
)
SPARE = 2  # processes that a program may start


class Python:
    """Runs programs, one after the other, in forks of one process."""

    def __init__(self) -> None:
        command = [sys.executable, "-B", __file__]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def run(self, *words, cwd=None, env=None, timeout: float = 600) -> subprocess.CompletedProcess:
        """As `subprocess.run`, with the output captured.

        Args:
            *words: What follows `python` on the command line: a file, "-c" and code, or "-m" and a module; arguments.
            cwd: Folder that the program starts in; this process's if None.
            env: Its environment; this process's if None.
            timeout: Seconds after which the program is killed.

        Raises:
            RuntimeError: The fork server has ended.
            subprocess.TimeoutExpired: The program was killed.
        """
        words = [str(word) for word in words]
        with tempfile.TemporaryDirectory() as folder:
            asked = [words, dict(os.environ if env is None else env), str(cwd or os.getcwd()), folder]
            self._server.stdin.write(json.dumps(asked).encode() + b"\n")
            pid = self._number()
            if not select.select([self._server.stdout], [], [], timeout)[0]:
                os.killpg(pid, signal.SIGKILL)
                self._number()
                raise subprocess.TimeoutExpired(words, timeout)
            code = self._number()
            return subprocess.CompletedProcess(words, code, *(Path(folder, n).read_text() for n in ("out", "err")))

    def _number(self) -> int:
        """The next line that the fork server prints."""
        if not (line := self._server.stdout.readline()):
            raise RuntimeError("the fork server has ended")
        return int(line)

    def close(self) -> None:
        """Ends the process."""
        self._server.stdin.close()
        self._server.wait()


def serve() -> None:
    """Starts a program for each line of standard input, and prints its process and how it ended."""
    sys.path.pop(0)  # this folder, as of a script
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):
            __import__(library)
    for line in sys.stdin:
        words, environment, cwd, folder = json.loads(line)
        if not (pid := os.fork()):
            os.setpgid(0, 0)
            os.chdir(cwd)
            for number, name in ((0, os.devnull), (1, f"{folder}/out"), (2, f"{folder}/err")):
                os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
            sys.stdin = open(0)  # noqa: SIM115  # the other has read ahead
            for _ in range(SPARE):
                Child.spare.append(Child(words))
            become(words, environment)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    os._exit(0)  # what so many libraries would do at the end takes a second


class Child:
    """A fork that waits until Lightning starts its program again, with another environment; the launcher's `Popen`."""

    spare: ClassVar[list["Child"]] = []

    def __init__(self, words) -> None:
        self.arguments = words[2:] if words[0] in ("-c", "-m") else words[1:]
        read, self._write = os.pipe()
        self.returncode: int | None = None
        if not (pid := os.fork()):
            os.close(self._write)
            for other in Child.spare:
                os.close(other._write)
            Child.spare.clear()
            with open(read) as pipe:
                environment = pipe.readline()
            if not environment:  # the program has ended
                os._exit(0)
            become(words, json.loads(environment))
        os.close(read)
        self.pid = pid

    @classmethod
    def start(cls, command, env, cwd=None) -> "Child":
        if not cls.spare:
            raise RuntimeError(f"a program may start {SPARE} processes; raise forks.SPARE")
        child = cls.spare.pop()
        program = command[: len(command) - len(child.arguments)]
        if cwd is not None or [*program, *child.arguments] != [*command] or program[0] != sys.executable:
            raise RuntimeError(f"a fork can only run its own program, in its own folder; not {command} in {cwd}")
        os.write(child._write, json.dumps(dict(env)).encode() + b"\n")
        return child

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def become(words, environment) -> None:
    """Runs a program in this process, and ends it."""
    code = 1
    try:
        os.environ.clear()
        os.environ |= environment
        first = [os.getcwd()] if words[0] in ("-c", "-m") else [str(Path(words[0]).resolve().parent)]
        sys.path[:0] = first + [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
        from lightning.pytorch.strategies.launchers import subprocess_script

        subprocess_script.subprocess = types.SimpleNamespace(Popen=Child.start)
        if words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(words[1], "<string>", "exec"), main.__dict__)
        elif words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
