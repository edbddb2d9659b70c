"""Which rule of real firmware is held by which test: each rule is broken in a private copy, and its test must fail.

    python -m tests.spec.mutations            all of them, about 10 s each
    python -m tests.spec.mutations storm      those whose rule or place has this word in it
    python -m tests.spec.mutations --table    the table of README.md

A mutation is one place in ``core/``, replaced. The copy is of the checkout as it stands; the module is built again and
its test run in it, and nothing of the checkout is touched. Not part of ``make test``: it compiles for minutes. That the
places and the tests of the table are there is checked by test_mutations.py, in no time.
"""

from __future__ import annotations

import pathlib
import re
import sys
import tempfile
import time
from typing import NamedTuple

from tests.fakes.checkout import ROOT as ROOT
from tests.fakes.checkout import Change, Checkout

BOOT = "test_captures.py::test_a_recorded_boot_is_answered_as_it_was"
MACHINE = "test_captures.py::test_the_transfer_machine_sends_the_same_blocks_in_the_same_order"
AGAIN = "test_captures.py::test_the_same_machine_boots_again_from_the_same_ports"
TFTP = "test_tftp_firmware.py"
HTTP = "test_http_firmware.py"


class Mutation(NamedTuple):
    """*before* stands once in ``core/<module>.pyx``; *test* is below tests/spec/."""

    rule: str
    module: str
    before: str
    after: str
    test: str


MUTATIONS = [
    # -- TFTP: options
    Mutation(
        "options that are asked for are answered by an OACK (without it UEFI does not boot)",
        "tftp_transfer",
        "t.state = TRANSFER_OACK if t.options.present else TRANSFER_DATA",
        "t.state = TRANSFER_DATA",
        f"{BOOT}[uefi-pxe-here]",
    ),
    Mutation(
        "tsize in the OACK is the size of the file",
        "tftp_packet",
        'put(out + n, "tsize", tsize)',
        'put(out + n, "tsize", 0)',
        f"{BOOT}[uefi-pxe-here]",
    ),
    Mutation(
        "options are understood in any order, tsize first or last",
        "tftp_packet",
        "        take_option(&out.options, at, stop - at, value, value_stop - value)\n",
        "        take_option(&out.options, at, stop - at, value, value_stop - value)\n        break\n",
        f"{BOOT}[bios-pxelinux-here]",
    ),
    Mutation(
        "a windowsize of 4 is granted",
        "tftp_transfer",
        "    if not t.options.present & OPT_WINDOWSIZE:\n",
        "    t.options.present &= ~OPT_WINDOWSIZE\n    if not t.options.present & OPT_WINDOWSIZE:\n",
        f"{BOOT}[uefi-pxe-here]",
    ),
    Mutation(
        "ERROR 8 after the OACK ends the size probe, in silence",
        "tftp_service",
        "        session_error(loop, s, block_of(packet))\n",
        "        pass\n",
        f"{TFTP}::test_uefi_probes_the_size_ends_with_error_8_and_asks_again_from_the_next_port",
    ),
    Mutation(
        "a size probe is recorded as a probe",
        "tftp_lifecycle",
        "OUTCOME_PROBE if",
        "OUTCOME_ABORTED if",
        f"{BOOT}[aarch64-pxe-here]",
    ),
    # -- TFTP: blocks
    Mutation(
        "a window goes out whole and is acknowledged once",
        "tftp_transfer",
        "    t.options = asked[0]\n",
        "    t.options = asked[0]\n    t.options.windowsize = min(asked.windowsize, <unsigned int>2)\n",
        f"{BOOT}[aarch64-pxe-here]",
    ),
    Mutation(
        "a file of whole blocks ends with an empty one",
        "tftp_transfer",
        "t.last = size // t.options.blksize + 1 ",
        "t.last = (size + t.options.blksize - 1) // t.options.blksize ",
        f"{BOOT}[uefi-pxe-closed-here]",
    ),
    Mutation(
        "a duplicate ACK never brings a resend (the storm)",
        "tftp_transfer",
        "        t.duplicate_acks += 1\n        return DO_NOTHING                            # a duplicate,",
        "        t.next = t.acked + 1\n        return DO_SEND                               # a duplicate,",
        f"{BOOT}[uefi-pxe-lossy-here]",
    ),
    Mutation(
        "an ACK of stale blocks after a deadline brings no resend (the storm)",
        "tftp_transfer",
        "return t.by_deadline and block <= t.mark",
        "return False",
        f"{TFTP}::test_uefi_loses_one_block_of_a_window_and_answers_every_stale_one",
    ),
    Mutation(
        "the same, as recorded",
        "tftp_transfer",
        "return t.by_deadline and block <= t.mark",
        "return False",
        f"{MACHINE}[uefi-pxe-lossy]",
    ),
    Mutation(
        "an ACK that moves inside the window resends from there, at once",
        "tftp_transfer",
        "    if t.acked >= t.next or not is_stale(t, t.acked):\n",
        "    if t.acked >= t.next:\n",
        f"{MACHINE}[uefi-pxe-lossy]",
    ),
    Mutation(
        "an ACK by the client's own timer does not shift the windows (U-Boot)",
        "tftp_transfer",
        "rewind(t, is_by_timer(t, now_ns))",
        "rewind(t, False)",
        f"{BOOT}[u-boot-lossy-here]",
    ),
    Mutation(
        "ACKs repeated faster than the deadline do not move it (PXELINUX)",
        "tftp_transfer",
        "        t.duplicate_acks += 1\n        return DO_NOTHING                            # a duplicate,",
        "        t.deadline_ns = now_ns + interval(t)\n        return DO_NOTHING                 # a duplicate,",
        "test_captures.py::test_acks_that_pxelinux_repeats_faster_than_the_deadline_do_not_move_it",
    ),
    Mutation(
        "what was lost comes again by a deadline of a fifth of a second first (GRUB and UEFI say nothing)",
        "tftp_transfer",
        "    if t.expired == 0 and t.srtt_ns > 0:",
        "    if False:",
        f"{MACHINE}[uefi-pxe-lossy]",
    ),
    Mutation(
        "deadlines go on after the first one, and back off (a dead link)",
        "tftp_transfer",
        "    return t.timeout_ns << (t.expired // 2 if t.expired < 4 else 2)",
        "    return t.timeout_ns << 4",
        f"{MACHINE}[bios-pxelinux-dead-link]",
    ),
    Mutation(
        "ACK 0 repeated while the first bytes are slow brings nothing twice",
        "tftp_transfer",
        "        t.duplicate_acks += 1\n        return DO_NOTHING                            # a duplicate,",
        "        t.next = t.acked + 1\n        return DO_SEND                               # a duplicate,",
        f"{BOOT}[bios-pxelinux-slow-file-here]",
    ),
    # -- TFTP: requests, ports and names
    Mutation(
        "a repeated request is the same transfer, asked for once (GRUB, 39 times)",
        "tftp_requests",
        "    if s != NULL and n > 0 and is_same(s, name, n, &request.options, &path):",
        "    if s != NULL and n < 0:",
        f"{BOOT}[uefi-pxe-slow-config-here]",
    ),
    Mutation(
        "nor does a slow file begin a transfer per request",
        "tftp_requests",
        "    if s != NULL and n > 0 and is_same(s, name, n, &request.options, &path):",
        "    if s != NULL and n < 0:",
        f"{TFTP}::test_grub_repeats_its_request_for_a_file_that_is_slow_to_come_and_one_transfer_begins",
    ),
    Mutation(
        "a client port does not meet the TID of its last transfer (GRUB's ports, lpxelinux's one port)",
        "tftp_requests",
        "        if i == last and not tftp.single_port:\n            continue\n",
        "",
        f"{BOOT}[bios-lpxelinux-tftp-here]",
    ),
    Mutation(
        "nor when two requests come within a millisecond (U-Boot)",
        "tftp_requests",
        "        if i == last and not tftp.single_port:\n            continue\n",
        "",
        f"{BOOT}[u-boot-here]",
    ),
    Mutation(
        "nor on the next boot within 30 s",
        "tftp_requests",
        "        if i == last and not tftp.single_port:\n            continue\n",
        "",
        f"{AGAIN}[uefi-pxe]",
    ),
    Mutation(
        "a request for another name replaces the transfer of its port",
        "tftp_requests",
        "        session_act(loop, s, DO_ABORT)\n",
        "        return\n",
        f"{TFTP}::test_a_client_that_asks_for_something_else_meanwhile_gets_that",
    ),
    Mutation(
        "a name nobody has is ERROR 1 (revocations_sku.efi)",
        "tftp_requests",
        'refuse(loop, listener.fd, path, ERR_NOT_FOUND, name, n, ": no such file")',
        'refuse(loop, listener.fd, path, ERR_UNDEFINED, name, n, ": no such file")',
        f"{BOOT}[uefi-pxe-here]",
    ),
    Mutation(
        "so is a configuration nobody has (pxelinux.cfg/0A4F0065)",
        "tftp_lifecycle",
        "    if status == ST_UNKNOWN:\n        code = ERR_NOT_FOUND\n",
        "    if status == ST_UNKNOWN:\n",
        f"{BOOT}[bios-pxelinux-here]",
    ),
    Mutation(
        "a missing *.lst is empty",
        "table",
        "        return NAME_EMPTY\n",
        "        return NAME_FILE\n",
        f"{BOOT}[uefi-pxe-here]",
    ),
    Mutation(
        "bios//images/... is a name with one slash (PXELINUX)",
        "table",
        "        if length == 0 or (length == 1 and raw[start] == c'.'):\n            continue\n",
        "        if length == 1 and raw[start] == c'.':\n            continue\n",
        f"{BOOT}[bios-pxelinux-subdirectory-here]",
    ),
    Mutation(
        "two slashes are nothing to refuse (shim)",
        "http_exchange",
        "        n = name_normalise(path, <size_t>n, scene.name)\n",
        "        if n > 1 and path[1] == c'/':\n            return 400\n"
        "        n = name_normalise(path, <size_t>n, scene.name)\n",
        f"{BOOT}[uefi-http-shim-here]",
    ),
    Mutation(
        "a backslash is a slash",
        "table",
        "            if c == c'/' or c == c'\\\\':\n",
        "            if c == c'/':\n",
        f"{TFTP}::test_pxelinux_glues_its_directory_before_names",
    ),
    Mutation(
        "PXELINUX's configuration may stand in any folder (bios/pxelinux.cfg/default)",
        "table",
        "    if dir_len >= 13 and memcmp(base - 13,",
        "    if dir_len == 13 and memcmp(base - 13,",
        f"{BOOT}[bios-pxelinux-subdirectory-here]",
    ),
    Mutation(
        "GRUB's for one machine is asked for (grub.cfg-<mac>)",
        "table",
        '    if starts(base, base_len, b"grub.cfg-", 9) and (',
        '    if starts(base, base_len, b"grub.cfg+", 9) and (',
        f"{BOOT}[uefi-pxe-here]",
    ),
    # -- HTTP
    Mutation(
        "HEAD is answered without a body, and GET follows on the same connection (OVMF)",
        "http_exchange",
        "        x.flags |= EXCHANGE_BODYLESS\n",
        "        pass\n",
        f"{BOOT}[uefi-http-shim-here]",
    ),
    Mutation(
        "Content-Length of a HEAD is the file's (OVMF allocates by it)",
        "http_response",
        "        p = put_number(p, <uint64_t>(end - first))\n",
        "        p = put_number(p, 0)\n",
        f"{BOOT}[uefi-http-shim-here]",
    ),
    Mutation(
        "a connection stays open after an answer (iPXE reads all files over one)",
        "http_exchange",
        "        x.flags |= EXCHANGE_KEEP\n",
        "        pass\n",
        f"{BOOT}[bios-ipxe-http-here]",
    ),
    Mutation(
        "it stays open after a 404 too (shim)",
        "http_exchange",
        "    cdef refusal_t r\n",
        "    cdef refusal_t r\n    x.flags &= ~EXCHANGE_KEEP\n",
        f"{BOOT}[uefi-http-shim-here]",
    ),
    Mutation(
        "a refusal to GRUB is cut after its head (it would boot the text)",
        "http_exchange",
        "        x.flags |= EXCHANGE_GRUB\n",
        "        pass\n",
        f"{BOOT}[uefi-http-grub-here]",
    ),
    Mutation(
        "HTTP/1.0 with Connection: close is answered so and closed (lpxelinux)",
        "http_exchange",
        "    if not scene.draining and not h.flags & HEAD_CLOSE and (h.minor or h.flags & HEAD_KEEP_ALIVE):\n",
        "    if not scene.draining:\n",
        f"{BOOT}[bios-lpxelinux-here]",
    ),
    Mutation(
        "a long cookie is read over (lpxelinux)",
        "http_head",
        "    at[0] = p + 2\n    while data + p > value.at",
        "    if p - start > 255:\n        return refuse(h, 431, b'')\n    at[0] = p + 2\n    while data + p > value.at",
        f"{BOOT}[bios-lpxelinux-here]",
    ),
    Mutation(
        "%3A in a target is a colon (iPXE)",
        "http_head",
        "        if target[p] != 37:\n            out[length] = target[p]",
        "        if True:\n            out[length] = target[p]",
        f"{BOOT}[bios-ipxe-http-here]",
    ),
    Mutation(
        "names of header fields are Title-Case (GRUB compares them so)",
        "http_response",
        'p = put(p, b"\\r\\nContent-Length: ")\n        p = put_number(p, <uint64_t>(end - first))',
        'p = put(p, b"\\r\\ncontent-length: ")\n        p = put_number(p, <uint64_t>(end - first))',
        f"{BOOT}[uefi-http-grub-here]",
    ),
    Mutation(
        "a name nobody has is a 404 with a length",
        "http_exchange",
        'return say(x, scene, 404, b"no file has this name", 0, True, 0)',
        'return say(x, scene, 503, b"no file has this name", 0, True, 0)',
        f"{BOOT}[uefi-http-shim-here]",
    ),
    Mutation(
        "no redirect, whatever the slashes",
        "table",
        "        if length == 0 or (length == 1 and raw[start] == c'.'):\n            continue\n",
        "        if length == 0:\n            continue\n",
        f"{HTTP}::test_slashes_and_dots_too_many_are_no_other_file_and_no_redirect",
    ),
]


def source(mutation: Mutation, root: pathlib.Path = ROOT) -> pathlib.Path:
    return root / "core" / f"{mutation.module}.pyx"


def table() -> str:
    """README.md's table, in Markdown."""
    rows = [(m.rule, f"`core/{m.module}.pyx`", f"`{m.test.replace('::', '` `')}`") for m in MUTATIONS]
    return "\n".join(["| rule | where | test |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def passes(copy: Checkout, *tests: str) -> tuple[bool, str]:
    """Whether they pass, and pytest's last line of an error. SystemExit when they cannot even be run."""
    options = ["-q", "-x", "-p", "no:cacheprovider", "--timeout=100"]
    done = copy.run("-m", "pytest", *options, *(f"tests/spec/{test}" for test in tests))
    if done.returncode not in (0, 1):
        raise SystemExit(f"{tests}: pytest ended with {done.returncode}:\n{done.stdout[-3000:]}")
    errors = re.findall(r"^E   +((?:\w+\.)*\w*(?:Error|Failed|assert)\b.*)", done.stdout, re.MULTILINE)
    return done.returncode == 0, errors[-1] if errors else ""


def breaks(copy: Checkout, mutation: Mutation) -> str | None:
    """How its test fails when the rule is broken; None: it passes."""
    with copy.changed([Change(f"core/{mutation.module}.pyx", mutation.before, mutation.after)]):
        passed, error = passes(copy, mutation.test)
    return None if passed else error or "it failed"


def main(arguments: list[str]) -> int:
    if arguments == ["--table"]:
        print(table(), end="")
        return 0
    word = arguments[0] if arguments else ""
    chosen = [m for m in MUTATIONS if word in m.rule or word in m.module or word in m.test]
    if not chosen:  # pytest without a test runs them all
        print(f"no rule, module or test has {word!r} in it")
        return 2
    survived = 0
    with tempfile.TemporaryDirectory(prefix="bootplane-mutations-") as folder:
        began = time.monotonic()
        copy = Checkout(pathlib.Path(folder))
        passed, error = passes(copy, *{m.test for m in chosen})
        if not passed:
            print(f"unbroken, a test fails already: {error}")
            return 2
        print(f"copied, built and passed ({time.monotonic() - began:.0f} s); now {len(chosen)} rules, one at a time")
        for mutation in chosen:
            began = time.monotonic()
            error_or_none = breaks(copy, mutation)
            survived += error_or_none is None
            verdict = "SURVIVES" if error_or_none is None else "fails"
            print(f"{verdict:8} {time.monotonic() - began:4.0f} s  {mutation.rule}\n{'':17}{mutation.test}", flush=True)
            if error_or_none is not None:
                print(f"{'':17}{error_or_none[:100]}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} rules are held")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
