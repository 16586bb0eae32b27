"""`app`: a page in the browser to play with a model."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

from cmd_lightning.commands.files import open_model, tell, warn
from cmd_lightning.commands.loading import loading
from cmd_lightning.errors import InputError
from cmd_lightning.zoo import model_folder

LOCAL = ("127.0.0.1", "localhost", "::1")


def app(model: str, *, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve a page in the browser to play with a model, until Ctrl-C; needs the extra `app`.

    The page needs no internet. Videos are in a temporary folder, which is removed at the end; download your favourites.

    Args:
        model: Model folder, as written by export, or a name of the zoo, e.g. shapes32.
        host: Address to listen on: by default only this computer can open the page; 0.0.0.0 opens it to everyone who
            can reach this computer, without a password.
        port: Port to listen on.
    """
    model_folder(model)
    check_port(host, port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at import
    with loading(model):
        try:
            import gradio  # noqa: F401  (before the model is opened, which takes seconds)
        except ImportError as error:
            raise InputError("app: gradio is missing; pip install 'cmd-lightning[app]'") from error
        from cmd_lightning.commands.app_page import Page, launch

        pipeline = open_model(model)
    pipeline.set_progress_bar_config(disable=True)
    if host not in LOCAL:
        warn(f"--host {host}: the page has no password; everyone who can reach this computer can use it")
    with TemporaryDirectory(prefix="cmd-lightning-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # for uploads
        page = Page(pipeline, model, Path(folder))
        tell(f"{model} is at {launch(page, host, port)} until Ctrl-C")
        page.blocks.block_thread()


def check_port(host: str, port: int) -> None:
    """Raises an `InputError` if nothing can listen there."""
    if not 0 < port < 2**16:
        raise InputError(f"--port {port}: give a number from 1 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: nothing can listen there ({error.strerror}); give another"
        ) from error
