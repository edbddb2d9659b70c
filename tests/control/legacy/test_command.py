"""`bootplane migrate-maas` in words: the table, the remarks, what is needed, what to do next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from bootplane.control.cli.main import app
from bootplane.control.legacy import state
from tests.fakes.maas import Maas
from tests.fakes.regions import running


def migrate(maas: Maas, data: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["migrate-maas", "--database", maas.url, "--data", str(data), *words])


def test_a_dry_run_prints_the_table_and_the_room(maas: Maas, data: Path) -> None:
    maas.image("noble")
    maas.image("jammy", version="20240101")
    maas.put("nobody", 1000)
    done = migrate(maas, data, "--dry-run")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["NAME", "VERSION", "KIND", "FILES", "SIZE", "STATE"]
    assert lines[1].split()[:3] == ["ubuntu/noble/amd64/ga-24.04", "20240501", "synced"]
    assert lines[3].endswith("1000 bytes: left there: no file names it")
    assert lines[4].startswith("2 images, 70000 bytes; 70000 bytes to copy, ")
    assert (
        lines[5] == "`select coalesce(sum(total_size), 0) from maasserver_largefile` on the MAAS database: 71000 bytes."
    )
    assert done.stderr == "1 other session on this database: stop MAAS before the migration.\n"
    assert not data.exists()


def test_the_end_says_what_came_and_what_to_do(maas: Maas, data: Path) -> None:
    maas.image("noble")
    done = migrate(maas, data)
    assert done.exit_code == 0, done.output
    assert "Migrated 1 image, 35000 bytes." in done.stdout
    assert done.stdout.splitlines()[-1].startswith("The objects are still in the MAAS database: `--unlink`")
    done = migrate(maas, data, "--unlink")
    assert "Removed 3 objects, 35000 bytes, from the MAAS database." in done.stdout
    assert "`VACUUM FULL pg_largeobject`" in done.stdout.splitlines()[-1]


def test_damage_is_exit_status_1_and_one_sentence(maas: Maas, data: Path) -> None:
    files = maas.image("noble")
    maas.one("update maasserver_largefile set content = %s where id = %s returning id",
             maas.large_object(b"x" * 20_000), files["squashfs"])  # fmt: skip
    done = migrate(maas, data)
    assert done.exit_code == 1
    assert "- ubuntu/noble amd64/ga-24.04 20240501, squashfs: damaged:" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("bootplane: The migration has not succeeded: 1 file damaged")
    assert migrate(maas, data, "--leave-damaged").exit_code == 0


def test_the_document_is_the_report(maas: Maas, data: Path) -> None:
    maas.image("noble")
    found = json.loads(migrate(maas, data, "--json").stdout)
    assert (found["succeeded"], found["bytes_total"], len(found["rows"])) == (True, 35_000, 1)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://maas:geheim@127.0.0.1:1/maasdb", "MAAS database maasdb at 127.0.0.1:1: cannot be opened: "),
        ("postgresql:/maas:geheim@h", "MAAS database: expected postgresql://USER@HOST/NAME, got something else."),
    ],
)
def test_a_database_that_cannot_be_opened_is_one_sentence(url: str, words: str, data: Path) -> None:
    done = CliRunner().invoke(app, ["migrate-maas", "--database", url, "--data", str(data)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"bootplane: {words}") and done.stderr.count("\n") == 1
    assert "geheim" not in done.stderr


def test_a_migration_that_cannot_succeed_is_given_up(maas: Maas, data: Path) -> None:
    files = maas.image("noble")
    maas.image("jammy", version="20240101")
    maas.one("update maasserver_largefile set content = %s where id = %s returning id",
             maas.large_object(b"x" * 20_000), files["squashfs"])  # fmt: skip
    assert migrate(maas, data).exit_code == 1
    words = ["migrate-maas", "--give-up", "--data", str(data)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and done.output.startswith("The migration has been given up"), done.output
    with running(data) as (region, client):
        assert not state.is_pending(region.settings_rows)
        assert client.get("/api/v1/images/ubuntu/jammy/amd64/ga-24.04").json()["complete"]
        assert "maas-migration" not in {each["id"] for each in client.get("/api/v1/status").json()["banners"]}
    again = CliRunner().invoke(app, words)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "expected one that has begun and not succeeded, got none" in again.stderr


def test_without_a_database_it_says_which_option_is_missing(data: Path) -> None:
    done = CliRunner().invoke(app, ["migrate-maas", "--data", str(data)])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "--database: expected postgresql://... of the MAAS database, got none." in done.stderr
