"""The command as a whole: light to start, one sentence per failure, complete help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bootplane.control.cli.main import app

# what a server brings; pydantic itself is typer's own
SERVER = (
    "fastapi",
    "starlette",
    "uvicorn",
    "dbos",
    "sqlalchemy",
    "aiohttp",
    "jinja2",
    "pydantic_settings",
    "cryptography",
    "asyncio",
)
ROOT = Path(__file__).resolve().parents[3]


WORDS = {"bootplane.dataplane", "bootplane.dataplane.units"}  # sizes in words: text alone, one definition for both ends


def modules_after(arguments: list[str], data: Path) -> set[str]:
    """What ``bootplane ARGUMENTS`` has imported by the time it ends."""
    code = (
        "import sys\n"
        f"sys.argv = ['bootplane', *{arguments!r}]\n"
        "try:\n    from bootplane.control.cli.main import main\n    main()\n"
        "except SystemExit as end:\n    print(end.code, file=sys.stderr)\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    env = {**os.environ, "BOOTPLANE_DATA": str(data), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    *_, status, modules = done.stderr.splitlines()
    assert status in ("0", "None"), done.stderr
    return set(modules.split())


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["status"], ["image", "list", "--json"], ["sync", "--wait"], ["source", "list"], ["machine", "list"]],
)
def test_a_command_imports_neither_the_server_nor_its_libraries(arguments: list[str], region, data) -> None:
    loaded = modules_after(arguments, data)
    assert "bootplane.control.cli.main" in loaded
    assert sorted(loaded & set(SERVER)) == []
    ours = {name for name in loaded if name.startswith(("bootplane.core.", "bootplane.dataplane"))}
    assert sorted(ours - WORDS) == []


def test_json_output_does_not_even_import_rich(region, data) -> None:
    assert "rich" not in modules_after(["status", "--json"], data)


def commands(group, path=()):
    for name, command in group.commands.items():
        yield (*path, name)
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


def test_every_command_has_help_and_a_first_sentence() -> None:
    from typer.main import get_command

    found = list(commands(get_command(app)))
    assert ("rack", "list") in found and ("source", "check") in found
    for path in found:
        result = CliRunner().invoke(app, [*path, "--help"])
        assert result.exit_code == 0, path
        assert result.output.splitlines()[2].strip(), f"no help text: {path}"


def test_a_failure_is_one_line_on_stderr_and_exit_1(bootplane, region) -> None:
    region.problem("GET /status", 503, "the region is stopping.")
    result = bootplane("status")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "bootplane: the region is stopping.\n")


def test_an_unknown_option_is_exit_2(bootplane) -> None:
    assert bootplane("status", "--no-such-option").exit_code == 2


def test_the_version_is_printed(bootplane) -> None:
    from bootplane import __version__

    assert bootplane("--version").stdout == f"bootplane {__version__}\n"


def test_shell_completion_completes_the_nouns(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "_BOOTPLANE_COMPLETE": "complete_bash",
        "COMP_WORDS": "bootplane so",
        "COMP_CWORD": "1",
    }
    code = "from bootplane.control.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.split() == ["source"], done
