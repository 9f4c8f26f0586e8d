"""The optional packages of language models: imported when needed, and kept quiet."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from surefoot.errors import UsageError

EXTRA = 'pip install "surefoot[language]"'


@contextmanager
def quiet(local: bool) -> Iterator[None]:
    """Suppress PEFT's warnings about transformers, and progress bars if nothing is downloaded."""
    logging = need("transformers").utils.logging
    shown = local and logging.is_progress_bar_enabled()
    if shown:
        logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.* is deprecated")
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def need(module: str) -> Any:
    """An optional module.

    Raises:
        UsageError: it is not installed; the message says how to install it.
    """
    try:
        found = import_module(module)
        if module == "transformers" and not sys.stderr.isatty():
            found.utils.logging.disable_progress_bar()
        return found
    except ImportError as error:
        raise UsageError(f"language models need {module}, which is not installed: {EXTRA}.") from error
