"""The one way a command fails: a sentence for the operator and an exit status.

A command raises ``CliError``; ``main.Commands`` prints the sentence on stderr and exits. Nothing here knows of HTTP:
the client words its own failures.
"""

from __future__ import annotations


class CliError(Exception):
    """One sentence that names what, where, expected and got. *exit_code* is the status of the process."""

    def __init__(self, sentence: str, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
