"""The judgement over gpgv's status lines, and how gpgv is run. Real signatures: tests/spec/test_openpgp.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bootplane.control.simplestreams import signature
from bootplane.control.simplestreams.errors import (
    BadSignature,
    ExpiredKey,
    MissingSignature,
    SeveralMessages,
    SignatureRefused,
    SizeRefused,
    UnknownKey,
    VerifierMissing,
    WeakDigest,
)
from bootplane.control.simplestreams.keyring import Key, Keyring
from bootplane.control.simplestreams.signature import GpgvRun, judge, unverified_text, verify_clearsigned

PRIMARY, SUBKEY, STRANGER = "A" * 40, "B" * 40, "C" * 40
RING = Keyring(b"\x99", (Key(PRIMARY, (SUBKEY,), ("Source <s@x.invalid>",)),))
MESSAGE = (
    b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{}\n- -----BEGIN nothing\n"
    b"-----BEGIN PGP SIGNATURE-----\n\niQ==\n-----END PGP SIGNATURE-----\n"
)


def status(*lines: str, returncode: int = 0, stderr: str = "") -> GpgvRun:
    return GpgvRun(returncode, "".join(f"[GNUPG:] {line}\n" for line in lines), stderr)


def valid(key: str = SUBKEY, digest: int = 10, kind: str = "01", primary: str = PRIMARY) -> str:
    return f"VALIDSIG {key} 2026-11-21 1795295976 0 4 0 1 {digest} {kind} {primary}"


GOOD = "GOODSIG 0123456789ABCDEF Source%20of all <s@x.invalid>"
TEXT = "PLAINTEXT 74 0 "
UNKNOWN = f"ERRSIG 1111111111111111 22 10 01 1795295976 9 {STRANGER}"


def test_a_signature_by_a_subkey_counts_for_its_primary_key() -> None:
    signers, unknown = judge(status(TEXT, "NEWSIG", GOOD, valid()), RING, "here", 1)
    assert [(s.fingerprint, s.key, s.digest, s.name) for s in signers] == [
        (PRIMARY, SUBKEY, "SHA-512", "Source of all <s@x.invalid>")
    ]
    assert signers[0].created.isoformat() == "2026-11-21T21:19:36+00:00"
    assert unknown == ()


def test_exit_status_two_is_tolerated_only_for_an_unknown_further_signer() -> None:
    signers, unknown = judge(
        status(TEXT, "NEWSIG", UNKNOWN, "NO_PUBKEY 1111111111111111", "NEWSIG", GOOD, valid(), returncode=2),
        RING,
        "x",
        1,
    )
    assert len(signers) == 1 and unknown == (STRANGER,)
    with pytest.raises(BadSignature, match="gpgv's exit status 2: something else"):
        judge(status(TEXT, "NEWSIG", GOOD, valid(), returncode=2, stderr="gpgv: something else\n"), RING, "x", 1)


@pytest.mark.parametrize(
    ("lines", "refusal"),
    [
        ([TEXT, "NEWSIG", GOOD, valid(), "NEWSIG", "BADSIG 0123456789ABCDEF Source"], BadSignature),
        ([TEXT, "NEWSIG", GOOD], BadSignature),  # good, says gpgv, but not by which key
        ([TEXT, "NEWSIG", GOOD, valid(primary=STRANGER)], BadSignature),
        ([TEXT, "NEWSIG", GOOD, valid(kind="10")], BadSignature),  # a certification is no data signature
        ([TEXT, "NEWSIG", GOOD, valid(digest=2)], WeakDigest),
        ([TEXT, "NEWSIG", GOOD, valid(digest=1)], WeakDigest),
        ([TEXT, "NEWSIG", GOOD, valid(digest=11)], WeakDigest),
        ([TEXT, "NEWSIG", "EXPKEYSIG 0123456789ABCDEF Source", valid()], ExpiredKey),
        ([TEXT, "NEWSIG", UNKNOWN], UnknownKey),
        ([TEXT, "NEWSIG", UNKNOWN.replace(" 9 ", " 4 ")], BadSignature),
        ([TEXT, "NEWSIG", GOOD, valid(), "NEWSIG", UNKNOWN.replace(" 9 ", " 4 ")], BadSignature),
        ([TEXT, "NEWSIG", GOOD, valid(), "NEWSIG"], BadSignature),  # a signature it said nothing about
        ([TEXT, "NEWSIG", GOOD, valid(), "ERROR proc_pkt.plaintext 89_BAD_DATA"], BadSignature),
        ([TEXT, "NEWSIG", GOOD, valid(), "NODATA 3"], BadSignature),
        ([TEXT, TEXT, "NEWSIG", GOOD, valid()], SeveralMessages),
        (["NEWSIG", GOOD, valid()], SeveralMessages),
        ([TEXT, "NODATA 4"], MissingSignature),
        ([], MissingSignature),
    ],
)
def test_status_lines_that_prove_nothing_are_refused(lines: list[str], refusal: type[SignatureRefused]) -> None:
    with pytest.raises(SignatureRefused) as caught:
        judge(status(*lines), RING, "http://x.invalid/index.sjson", 1)
    assert type(caught.value) is refusal, caught.value
    assert str(caught.value).startswith("http://x.invalid/index.sjson: expected ")


def test_an_expired_further_signature_does_not_undo_a_good_one() -> None:
    signers, _ = judge(
        status(TEXT, "NEWSIG", "EXPSIG 0123456789ABCDEF Source", valid(), "NEWSIG", GOOD, valid(), returncode=1),
        RING,
        "x",
        1,
    )
    assert len(signers) == 1


def test_a_user_id_cannot_write_into_the_sentence() -> None:
    evil = "BADSIG 0123456789ABCDEF nice%0Aperson\x1b[31m" + "x" * 500
    with pytest.raises(BadSignature) as caught:
        judge(status(TEXT, "NEWSIG", evil), RING, "x", 1)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_missing_gpgv_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VerifierMissing, match=r"^here: .*gpgv on PATH, got none; install the package gpgv$"):
        verify_clearsigned(MESSAGE, RING, "here")


def fake_gpgv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "bin" / "gpgv"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(signature.tempfile, "tempdir", str(temporary))


def test_the_output_of_a_gpgv_that_fails_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpgv(tmp_path, monkeypatch, 'echo evil > "$8"; exit 0')
    with pytest.raises(MissingSignature):
        verify_clearsigned(MESSAGE, RING, "here")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_files_are_private_while_gpgv_runs_and_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    fake_gpgv(
        tmp_path,
        monkeypatch,
        f'''stat -c "%a %n" "$2" "$2"/* > {seen}; [ "$7" = --output ] && echo "{{}}" > "$8"
for word in "{TEXT}" NEWSIG "{GOOD}" "{valid()}"; do echo "[GNUPG:] $word"; done''',
    )
    assert verify_clearsigned(MESSAGE, RING, "here").data == b"{}\n"
    modes = dict(reversed(line.split(" ", 1)) for line in seen.read_text().splitlines())
    folder, *files = sorted(modes)
    assert modes[folder] == "700" and [modes[file] for file in files] == ["600", "600"]
    assert [Path(file).name for file in files] == ["keyring", "message"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_gpgv_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpgv(tmp_path, monkeypatch, "exec sleep 600")
    monkeypatch.setattr(signature, "GPGV_TIMEOUT_S", 0.05)
    with pytest.raises(VerifierMissing, match="expected an answer of gpgv within"):
        verify_clearsigned(MESSAGE, RING, "here")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_gpgv_cannot_write_more_than_the_message_could_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = tmp_path / "written"  # the limit is set from outside, a moment after the start
    fake_gpgv(
        tmp_path,
        monkeypatch,
        f"""for try in $(seq 500); do grep -q "Max file size *[0-9]" /proc/self/limits && break; done
head -c 1000000 /dev/zero > "$8"; wc -c < "$8" > {written}""",
    )
    with pytest.raises(SignatureRefused):
        verify_clearsigned(MESSAGE, RING, "here")
    assert 0 < int(written.read_text()) < 10_000


def test_sizes_are_bounded_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "MESSAGE_BYTES", 100)
    with pytest.raises(SizeRefused, match="expected at most 100 bytes, got"):
        verify_clearsigned(MESSAGE, RING, "here")
    monkeypatch.undo()
    long = MESSAGE.replace(b"iQ==", b"iQ==\n" * 20_000)
    with pytest.raises(SizeRefused, match="expected a signature of at most"):
        verify_clearsigned(long, RING, "here")
    with pytest.raises(SizeRefused):
        signature.verify_detached(b"", b"x" * 100_000, RING, "here")


def test_binary_packets_before_the_armor_are_refused() -> None:
    with pytest.raises(SeveralMessages, match="binary OpenPGP data before it"):
        verify_clearsigned(b"\xa3\x01\n" + MESSAGE, RING, "here")


def test_the_text_of_an_unsigned_source_is_cut_out_by_the_same_rules() -> None:
    assert unverified_text(b"hello\n" + MESSAGE, "here") == b"{}\n-----BEGIN nothing\n"
    assert unverified_text(MESSAGE.replace(b"\n", b"\r\n"), "here").strip() == b"{}\r\n-----BEGIN nothing"
    with pytest.raises(SeveralMessages):
        unverified_text(MESSAGE + MESSAGE, "here")
