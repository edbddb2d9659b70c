"""docs/reference/cli.md names every command and every option, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

from typer.main import get_command

from bootplane.control.cli.main import app

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")


def leaves(group, path="bootplane"):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield f"{path} {name}", command
            yield from leaves(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_every_command_is_in_the_manual() -> None:
    missing = [path for path, _ in leaves(get_command(app)) if path not in TEXT]
    assert missing == []


def test_the_manual_names_exactly_the_options_there_are() -> None:
    there = {
        option
        for _, command in leaves(get_command(app))
        for p in command.params
        for option in p.opts + p.secondary_opts
    }
    there = {option for option in there if option.startswith("--")} | {"--install-completion", "--help"}
    named = set(re.findall(r"--[a-z][a-z-]+", TEXT))
    assert named - there == set()
    assert there - named == {"--share"}  # the default, named by its opposite
