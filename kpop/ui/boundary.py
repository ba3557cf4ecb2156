"""The one place where an error becomes what the visitor reads."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable

import gradio as gr

from ..errors import KpopError, placeless

log = logging.getLogger("kpop.ui")
MOST_TOLD = 2000  # characters
CHECK = "Please check"  # title of what the visitor has to mend
UNEXPECTED = "Something broke on our side and was written to the app's log. Try again, or restart the app."


def plainly(handler: Callable) -> Callable:
    """Wrap a gradio handler: ours becomes its own sentence, anything else one sentence without details."""

    def told(error: Exception) -> gr.Error:
        if isinstance(error, gr.Error):
            return error
        if isinstance(error, KpopError):
            # What was typed is quoted in some sentences, and may be very long.
            return gr.Error(placeless(str(error))[:MOST_TOLD], title=CHECK, print_exception=False)
        if isinstance(error, OSError) and error.errno == 28:
            return gr.Error(
                "The disk is full. Free some space and try again; nothing was lost.",
                title="Disk full",
                print_exception=False,
            )
        log.exception("handler %s failed", getattr(handler, "__name__", handler), exc_info=error)
        return gr.Error(UNEXPECTED, title="Not done", print_exception=False)

    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def wrapped(*args, **kwargs):
            try:
                yield from handler(*args, **kwargs)
            except Exception as error:
                raise told(error) from None
    else:

        @functools.wraps(handler)
        def wrapped(*args, **kwargs):
            try:
                return handler(*args, **kwargs)
            except Exception as error:
                raise told(error) from None

    return wrapped
