"""Packages that only some of p2fit needs: imported quietly, or named with what installs them."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


def command(extra: str, distribution: str = "p2fit") -> str:
    """What to type to install an extra of p2fit, or of p2fit-adapters, into this environment.

    Neither is on a package index. Where it was installed from a folder that is still there, pip
    takes the extra from that folder; elsewhere the extra's own requirements are named.
    """
    try:
        options, folder = _source(distribution)
    except metadata.PackageNotFoundError:
        place = "." if distribution == "p2fit" else "./adapters"
        return f"in a checkout of p2fit, {_pip(f'{place}[{extra}]')}"
    if folder is not None:
        return _pip(*options, f"{folder}[{extra}]")
    needed = (line.partition(";") for line in metadata.requires(distribution) or ())
    own = (f"extra == '{extra}'", f'extra == "{extra}"')
    return _pip(*(name.strip() for name, _, marker in needed if marker.strip() in own))


def adapters() -> str:
    """What to type to install p2fit-adapters, which lies in p2fit's folder, beside p2fit."""
    try:
        options, folder = _source("p2fit")
    except metadata.PackageNotFoundError:
        folder = None
    if folder is not None and (folder / "adapters").is_dir():
        return _pip(*options, str(folder / "adapters"))
    return f"in a checkout of p2fit, {_pip('./adapters')}"


def _pip(*arguments: str) -> str:
    return shlex.join([sys.executable, "-m", "pip", "install", *arguments])


def _source(distribution: str) -> tuple[list[str], Path | None]:
    """pip's option if a distribution is editable, and the folder that it was installed from."""
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    origin = metadata.distribution(distribution).read_text("direct_url.json")  # PEP 610
    found: dict[str, Any] = json.loads(origin or "{}")
    if "dir_info" not in found:
        return [], None
    folder = Path(url2pathname(urlsplit(found["url"]).path))
    options = ["--editable"] if found["dir_info"].get("editable") else []
    return options, folder if (folder / "pyproject.toml").is_file() else None


def matplotlib() -> Any:
    """matplotlib, with its list of fonts, which it makes the first time."""
    with _quietly():
        import matplotlib.font_manager
    return matplotlib


def arviz() -> Any:
    """ArviZ; to be called before nutpie or PyMC import it.

    Version 0 announces the next one once a day, by a stamp in the user's cache folder.
    """
    with _quietly():
        try:
            import arviz
        except OSError:  # there is no place for the stamp
            before = os.environ.get("XDG_CACHE_HOME")
            with TemporaryDirectory() as folder:
                os.environ["XDG_CACHE_HOME"] = folder
                import arviz
            os.environ.pop("XDG_CACHE_HOME")
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before
    return arviz


def jax() -> Any:
    """JAX for small functions that are called ten thousands of times, on the CPU.

    Where it has made no devices yet, it works in the thread that asks, and where it has not even
    been imported it gets one thread: handing work over takes longer than such work. What it
    compiles is kept in the user's cache folder, unless JAX keeps it elsewhere or the folder cannot
    be written.
    """
    fresh, before = "jax" not in sys.modules, os.environ.get("NPROC")
    import jax

    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        with suppress(OSError, RuntimeError):  # read-only, or there is no home
            folder = base.expanduser() / "p2fit" / "jax"
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                config.update("jax_compilation_cache_dir", str(folder))
                config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if not _has_devices():
        config.update("jax_cpu_enable_async_dispatch", False)
    if fresh:
        os.environ["NPROC"] = "1"  # read when the devices are made
        jax.local_devices(backend="cpu")
        os.environ.pop("NPROC")
        if before is not None:
            os.environ["NPROC"] = before
    return jax


def _has_devices() -> bool:
    """Whether JAX has made them: what a program of one's own set is not to be changed then."""
    try:
        from jax._src.xla_bridge import backends_are_initialized
    except ImportError:  # it is JAX's own affair, and may have moved
        return True
    return bool(backends_are_initialized())


@contextmanager
def _quietly() -> Iterator[None]:
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
