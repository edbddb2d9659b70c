"""What commands that work on the data directory themselves share: whatever goes wrong is one sentence.

A command of the REST client hears the region's sentences; these meet the disk and the database on their own.
Libraries of the server are imported inside, as everywhere on the command line.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from bootplane.control.cli.failure import CliError


@contextmanager
def one_sentence() -> Iterator[None]:
    """Errors of ours, of the system and of a database become CliError; anything else is a bug and shows itself. SIGTERM
    ends it as ^C does: what was begun, keys for instance, is cleared away."""
    from sqlalchemy.exc import SQLAlchemyError

    from bootplane.control.errors import BootplaneError

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _end) if is_main else None
    try:
        yield
    except BootplaneError as error:
        raise CliError(_ended(str(error))) from None
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        raise CliError(_ended(named)) from None
    except SQLAlchemyError as error:  # without the statement and the link that SQLAlchemy adds
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise CliError(_ended(f"The region's database says: {reason}")) from None
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith(".") else f"{sentence}."
