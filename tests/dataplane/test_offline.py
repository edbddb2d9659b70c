from __future__ import annotations

import pytest

from bootplane.dataplane.offline import FORGET_S, MAX_MACHINES, Waits, retry_script
from bootplane.dataplane.retry import WAITS_S


def script(name: str, **changes: object) -> str:
    values: dict[str, object] = {
        "rack": "rack-1",
        "http": "10.0.0.1:5248",
        "regions": "http://10.0.0.2:5240",
        "reason": "the region cannot be reached",
        "attempt": 2,
        "wait_s": 10,
    }
    values.update(changes)
    text = retry_script(name, **values)  # type: ignore[arg-type]
    assert text is not None
    return text.decode("ascii")


def test_grub_is_told_what_is_missing_and_asks_again_for_ever() -> None:
    assert script("grub/grub.cfg-52:54:00:77:00:01") == (
        'if [ "${bootplane_loop}" = "" ]; then\n'
        "    set bootplane_loop=machine\n"
        "fi\n"
        "set bootplane_answered=y\n"
        "echo 'bootplane: the boot configuration of this machine is missing: grub/grub.cfg-52:54:00:77:00:01'\n"
        "echo 'bootplane: rack rack-1 at 10.0.0.1:5248 cannot get it from its region http://10.0.0.2:5240'\n"
        "echo 'bootplane: the region cannot be reached'\n"
        "echo 'bootplane: Nothing has been changed on this machine.'\n"
        'if [ "${bootplane_loop}" = "machine" ]; then\n'
        "    set bootplane_loop=on\n"
        "    set bootplane_wait=5\n"
        '    while [ "${bootplane_loop}" = "on" ]; do\n'
        '        echo "bootplane: trying again in ${bootplane_wait} s (ESC: at once)"\n'
        "        sleep --interruptible ${bootplane_wait}\n"
        '        if [ "${bootplane_wait}" = "5" ]; then set bootplane_wait=10\n'
        '        elif [ "${bootplane_wait}" = "10" ]; then set bootplane_wait=20\n'
        '        elif [ "${bootplane_wait}" = "20" ]; then set bootplane_wait=40\n'
        '        elif [ "${bootplane_wait}" = "40" ]; then set bootplane_wait=60\n'
        '        elif [ "${bootplane_wait}" = "60" ]; then set bootplane_wait=120\n'
        "        fi\n"
        "        source /grub/grub.cfg-52:54:00:77:00:01\n"
        "    done\n"
        "fi\n"
    )


def test_the_script_that_leads_to_others_takes_the_loop_before_they_can() -> None:
    assert "set bootplane_loop=first\n" in script("grub/grub.cfg")
    assert 'if [ "${bootplane_loop}" = "first" ]; then\n' in script("grub/grub.cfg")
    assert "isset ${bootplane_loop} || set bootplane_loop first\n" in script("ipxe.cfg")
    assert "iseq ${bootplane_loop} first || exit\n" in script("ipxe.cfg")


def test_pxelinux_is_told_what_is_missing_and_asks_for_the_same_again() -> None:
    assert script("bios/pxelinux.cfg/01-52-54-00-77-00-01-after-http-3") == (
        "SAY bootplane: the boot configuration of this machine is missing: "
        "bios/pxelinux.cfg/01-52-54-00-77-00-01-after-http-3\n"
        "SAY bootplane: rack rack-1 at 10.0.0.1:5248 cannot get it from its region http://10.0.0.2:5240\n"
        "SAY bootplane: the region cannot be reached\n"
        "SAY bootplane: try 2, the next one in 10 s. Nothing has been changed on this machine.\n"
        "PROMPT 1\n"
        "DEFAULT again\n"
        "TIMEOUT 100\n"
        "TOTALTIMEOUT 6100\n"
        "ONTIMEOUT again\n"
        "LABEL again\n"
        "  CONFIG pxelinux.cfg/01-52-54-00-77-00-01-after-http-3\n"
    )


def test_ipxe_is_told_what_is_missing_and_asks_again_for_ever() -> None:
    assert script("ipxe.cfg-52:54:00:77:00:01") == (
        "#!ipxe\n"
        "isset ${bootplane_loop} || set bootplane_loop machine\n"
        "echo bootplane: the boot configuration of this machine is missing: ipxe.cfg-52:54:00:77:00:01\n"
        "echo bootplane: rack rack-1 at 10.0.0.1:5248 cannot get it from its region http://10.0.0.2:5240\n"
        "echo bootplane: the region cannot be reached\n"
        "echo bootplane: Nothing has been changed on this machine.\n"
        ":bootplane_again\n"
        "iseq ${bootplane_loop} machine || exit\n"
        "set bootplane_loop on\n"
        "set bootplane_wait 5\n"
        ":bootplane_loop\n"
        "echo bootplane: trying again in ${bootplane_wait} s (Ctrl-C: at once)\n"
        "sleep ${bootplane_wait} ||\n"
        "iseq ${bootplane_wait} 5 && set bootplane_wait 10 && goto bootplane_next ||\n"
        "iseq ${bootplane_wait} 10 && set bootplane_wait 20 && goto bootplane_next ||\n"
        "iseq ${bootplane_wait} 20 && set bootplane_wait 40 && goto bootplane_next ||\n"
        "iseq ${bootplane_wait} 40 && set bootplane_wait 60 && goto bootplane_next ||\n"
        "iseq ${bootplane_wait} 60 && set bootplane_wait 120 && goto bootplane_next ||\n"
        ":bootplane_next\n"
        "chain --autofree http://10.0.0.1:5248/ipxe.cfg-52:54:00:77:00:01 ||\n"
        "goto bootplane_loop\n"
    )


@pytest.mark.parametrize("name", ["7e57ab1e-1234-4142-8000-525400770001", "0A4D00CA", "0"])
def test_pxelinux_gets_nothing_for_a_name_that_is_nobodys_once_the_region_is_back(name: str) -> None:
    assert retry_script(f"pxelinux.cfg/{name}", "r", "h:1", "u", "w", 1, 5) is None


@pytest.mark.parametrize("name", ["grub/grub.cfg", "pxelinux.cfg/default", "ipxe.cfg"])
@pytest.mark.parametrize("word", ["linux", "initrd", "kernel", "append", "boot", "sanboot", "reboot", "localboot"])
def test_a_retry_script_starts_nothing(name: str, word: str) -> None:
    commands = [line for line in script(name).lower().splitlines() if not line.startswith(("echo ", "say "))]
    assert word not in " ".join(commands).replace("pxelinux.cfg", "").split()


@pytest.mark.parametrize("name", ["grub/grub.cfg", "pxelinux.cfg/default", "ipxe.cfg"])
def test_what_others_wrote_cannot_leave_its_line(name: str) -> None:
    text = script(name, reason="x'\n; reboot `id` $(id) ${net0/mac} && boot || boot", regions="http://r'\nboot")
    for line in text.splitlines():
        if line.startswith(("echo '", "echo bootplane: rack", "echo bootplane: x", "SAY")):
            assert not set(line.removeprefix("echo '").removesuffix("'")) & set("'\"`$;&|{}\\")
        assert line.strip() != "boot"


def test_a_name_that_is_no_configuration_gets_no_script() -> None:
    assert retry_script("ubuntu/squashfs", "r", "h:1", "u", "w", 1, 5) is None


def test_waits_grow_for_each_machine_by_itself_and_start_over_after_a_while() -> None:
    waits = Waits()
    assert [waits.next("a", now) for now in range(7)] == [
        (1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (6, 120), (7, 120),
    ]  # fmt: skip
    assert waits.next("b", 7) == (1, 5)
    assert waits.next("a", 7 + FORGET_S) == (1, 5)


def test_waits_are_those_of_the_regions_scripts() -> None:
    waits = Waits()
    assert tuple(waits.next("a", 0)[1] for _ in WAITS_S) == WAITS_S == tuple(sorted(set(WAITS_S)))


def test_the_memory_of_machines_is_bounded() -> None:
    waits = Waits()
    for number in range(MAX_MACHINES + 1):
        waits.next(str(number), 0)
    assert waits.next("1", 1) == (2, 10)
    assert waits.next("0", 1) == (1, 5)
