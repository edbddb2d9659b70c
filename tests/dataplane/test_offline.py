from __future__ import annotations

import pytest

from bootplane.dataplane.offline import FORGET_S, MAX_MACHINES, Waits, retry_script


def script(name: str, **changes: object) -> str:
    values: dict[str, object] = {
        "rack": "rack-1 (10.0.0.1:5248)",
        "regions": "http://10.0.0.2:5240",
        "reason": "the region cannot be reached",
        "attempt": 2,
        "wait_s": 10,
    }
    values.update(changes)
    text = retry_script(name, **values)  # type: ignore[arg-type]
    assert text is not None
    return text.decode("ascii")


def test_grub_is_told_what_is_missing_and_asks_again() -> None:
    waits = "10 5 10 20 30 60 " + " ".join(["60"] * 30)
    assert script("grub/grub.cfg-52:54:00:77:00:01") == (
        "echo 'bootplane: the boot configuration of this machine is missing: grub/grub.cfg-52:54:00:77:00:01'\n"
        "echo 'bootplane: rack rack-1 (10.0.0.1:5248) cannot get it from its region http://10.0.0.2:5240'\n"
        "echo 'bootplane: the region cannot be reached'\n"
        "echo 'bootplane: try 2, the next one in 10 s. Nothing has been changed on this machine.'\n"
        f"for wait in {waits}; do\n"
        "  sleep $wait\n"
        "  configfile /grub/grub.cfg-52:54:00:77:00:01\n"
        "done\n"
        "reboot\n"
    )


def test_pxelinux_is_told_what_is_missing_and_asks_again() -> None:
    assert script("pxelinux.cfg/01-52-54-00-77-00-01") == (
        "DEFAULT retry\n"
        "PROMPT 1\n"
        "TIMEOUT 100\n"
        "ONTIMEOUT retry\n"
        "SAY bootplane: the boot configuration of this machine is missing: pxelinux.cfg/01-52-54-00-77-00-01\n"
        "SAY bootplane: rack rack-1 (10.0.0.1:5248) cannot get it from its region http://10.0.0.2:5240\n"
        "SAY bootplane: the region cannot be reached\n"
        "SAY bootplane: try 2, the next one in 10 s. Nothing has been changed on this machine.\n"
        "LABEL retry\n"
        "  CONFIG /pxelinux.cfg/01-52-54-00-77-00-01\n"
    )


def test_ipxe_is_told_what_is_missing_and_asks_again_for_ever() -> None:
    text = script("ipxe.cfg-52:54:00:77:00:01", wait_s=5)
    lines = text.splitlines()
    assert lines[0] == "#!ipxe"
    assert lines[1] == "echo bootplane: the boot configuration of this machine is missing: ipxe.cfg-52:54:00:77:00:01"
    assert lines[5:7] == ["sleep 5", "chain --replace /ipxe.cfg-52:54:00:77:00:01 ||"]
    assert lines[-3:] == [":again", "sleep 60", "chain --replace /ipxe.cfg-52:54:00:77:00:01 || goto again"]


@pytest.mark.parametrize("name", ["grub/grub.cfg", "pxelinux.cfg/default", "ipxe.cfg"])
@pytest.mark.parametrize("word", ["linux", "initrd", "kernel", "append", "boot\n", "sanboot", "exit", "install"])
def test_a_retry_script_starts_nothing(name: str, word: str) -> None:
    commands = [line for line in script(name).lower().splitlines() if not line.startswith(("echo ", "say "))]
    assert word.strip() not in " ".join(commands).replace("pxelinux.cfg", "").split()


@pytest.mark.parametrize("name", ["grub/grub.cfg", "pxelinux.cfg/default", "ipxe.cfg"])
def test_what_others_wrote_cannot_leave_its_line(name: str) -> None:
    text = script(name, reason="x'\n; reboot `id` $(id) ${net0/mac} && boot || boot", regions="http://r'\nboot")
    for line in text.splitlines():
        if line.startswith(("echo", "SAY")):
            assert not set(line.removeprefix("echo '").removesuffix("'")) & set("'\"`$;&|{}\\")
        assert line.strip() != "boot"


def test_a_name_that_is_no_configuration_gets_no_script() -> None:
    assert retry_script("ubuntu/squashfs", "r", "u", "w", 1, 5) is None


def test_waits_grow_for_each_machine_by_itself_and_start_over_after_a_while() -> None:
    waits = Waits()
    assert [waits.next("a", now) for now in range(7)] == [
        (1, 5), (2, 10), (3, 20), (4, 30), (5, 60), (6, 60), (7, 60),
    ]  # fmt: skip
    assert waits.next("b", 7) == (1, 5)
    assert waits.next("a", 7 + FORGET_S) == (1, 5)


def test_the_memory_of_machines_is_bounded() -> None:
    waits = Waits()
    for number in range(MAX_MACHINES + 1):
        waits.next(str(number), 0)
    assert waits.next("1", 1) == (2, 10)
    assert waits.next("0", 1) == (1, 5)
