"""The keyring check, before any parsing: which bytes are proved to be whose.

gpgv does the cryptography; its exit status does not decide. It is 0 for expired keys, revoked keys and SHA-1, and 2
when a second signer is merely unknown, so the status lines are read (GnuPG's doc/DETAILS) and judged here by the rule
of docs/design.md, "Sources": at least one signature that is good, by a key of the keyring that is neither expired nor
revoked, over SHA-256, SHA-384 or SHA-512; none that is bad; exactly one signed message. A further signer whose key the
keyring lacks is tolerated and named (key roll-over). The digest rule is about the signature over the data only: a SHA-1
*self*-signature on an old key (Canonical's has one) passes.

Invariant: ``Verified.data`` is what gpgv wrote after all of that held, or for a detached signature exactly the bytes it
was given; text around a signed message is in neither. No temporary file outlives a call.
Left to others: fetching, freshness, which keyring belongs to which source.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

from bootplane.control.simplestreams.errors import (
    BadSignature,
    ExpiredKey,
    ExpiredSignature,
    MissingSignature,
    RevokedKey,
    SeveralMessages,
    SignatureRefused,
    SizeRefused,
    UnknownKey,
    VerifierMissing,
    WeakDigest,
    shown,
)
from bootplane.control.simplestreams.keyring import Keyring

MESSAGE_BYTES = 64 << 20
SIGNATURE_BYTES = 64 << 10  # of a detached file, or of the signature block of a message
GPGV_TIMEOUT_S = 60.0
GPGV_PACKAGE = "gpgv"  # Debian's and Ubuntu's name for the package that holds it

STRONG_DIGESTS: Mapping[str, str] = {"8": "SHA-256", "9": "SHA-384", "10": "SHA-512"}  # RFC 4880, 9.4
_DIGESTS = {"1": "MD5", "2": "SHA-1", "3": "RIPEMD-160", "11": "SHA-224", **STRONG_DIGESTS}
_DATA_CLASSES = {"00", "01"}  # signatures over a binary or a text document (RFC 4880, 5.2.1)
_NO_PUBLIC_KEY = "9"  # ERRSIG's reason; 4 is an unknown algorithm

_PGP_LINE = re.compile(rb"^-----(BEGIN|END) PGP ([A-Z0-9 ,/]+)-----[ \t\r]*$", re.MULTILINE)
_ONE_CLEARSIGNED = [(b"BEGIN", b"SIGNED MESSAGE"), (b"BEGIN", b"SIGNATURE"), (b"END", b"SIGNATURE")]


@dataclass(frozen=True, slots=True)
class Signer:
    """One good signature."""

    fingerprint: str  # of the primary key; it stands in the keyring
    key: str  # fingerprint of the key or subkey that signed
    name: str  # user id
    digest: str  # "SHA-512"
    created: datetime


@dataclass(frozen=True, slots=True)
class Verified:
    data: bytes
    signers: tuple[Signer, ...]
    unknown: tuple[str, ...] = ()  # further signers the keyring does not know


def verify_clearsigned(message: bytes, keyring: Keyring, where: str) -> Verified:
    """The signed text of a clear-signed *message* (RFC 4880, 7). Raises SignatureRefused or VerifierMissing."""
    _check_shape(message, where)
    with _workspace(keyring=keyring.data, message=message) as folder:
        run = _gpgv(folder, ["--output", str(folder / "text"), str(folder / "message")], len(message), where)
        signers, unknown = judge(run, keyring, where, plaintexts=1)
        return Verified((folder / "text").read_bytes(), signers, unknown)


def verify_detached(data: bytes, signature: bytes, keyring: Keyring, where: str) -> Verified:
    """*data*, when the detached *signature* (armored or binary) proves it. Raises as ``verify_clearsigned``."""
    if len(data) > MESSAGE_BYTES:
        raise SizeRefused(f"{where}: expected at most {MESSAGE_BYTES} bytes, got {len(data)}")
    if len(signature) > SIGNATURE_BYTES:
        raise SizeRefused(f"{where}: expected a signature of at most {SIGNATURE_BYTES} bytes, got {len(signature)}")
    begins = [line[2] for line in _PGP_LINE.finditer(signature) if line[1] == b"BEGIN"]
    if len(begins) > 1:
        raise SeveralMessages(f"{where}: expected one detached signature, got {len(begins)} OpenPGP blocks")
    with _workspace(keyring=keyring.data, signature=signature, data=data) as folder:
        run = _gpgv(folder, [str(folder / "signature"), str(folder / "data")], 0, where)
        signers, unknown = judge(run, keyring, where, plaintexts=0)
        return Verified(data, signers, unknown)


def unverified_text(message: bytes, where: str) -> bytes:
    """The text of a clear-signed *message*, proved by nothing: for sources whose operator said "unsigned"."""
    _check_shape(message, where)
    _, signature, _ = list(_PGP_LINE.finditer(message))
    head = re.compile(rb"^-----BEGIN PGP SIGNED MESSAGE-----[ \t\r]*\n(?:[^\n]*\S[^\n]*\n)*[ \t\r]*\n", re.MULTILINE)
    start = head.search(message)
    if start is None:
        raise MissingSignature(f"{where}: expected a blank line after the header of the signed message, got none")
    text = message[start.end() : signature.start()]
    return re.sub(rb"^- ", b"", text, flags=re.MULTILINE)


def _check_shape(message: bytes, where: str) -> None:
    """One clear-signed message and no other OpenPGP block: what gpgv would say of several is not worth knowing."""
    if len(message) > MESSAGE_BYTES:
        raise SizeRefused(f"{where}: expected at most {MESSAGE_BYTES} bytes, got {len(message)}")
    lines = list(_PGP_LINE.finditer(message))
    blocks = [(line[1], line[2]) for line in lines]
    begins = [kind for word, kind in blocks if word == b"BEGIN"]
    messages = [kind for kind in begins if kind != b"SIGNATURE"]
    if b"SIGNED MESSAGE" not in begins:
        got = f"a PGP {shown(begins[0]).lower()}" if begins else f"text that begins with {shown(message[:40])!r}"
        raise MissingSignature(f"{where}: expected a clear-signed message, got {got}")
    if len(messages) > 1 or begins.count(b"SIGNATURE") > 1:
        raise SeveralMessages(f"{where}: expected exactly one signed message, got {len(begins)} OpenPGP blocks")
    if blocks != _ONE_CLEARSIGNED:
        raise MissingSignature(f"{where}: expected a whole clear-signed message, got one that is cut off")
    if message[:1] >= b"\x80":  # a binary packet before the armor would be read instead of it
        raise SeveralMessages(f"{where}: expected exactly one signed message, got binary OpenPGP data before it")
    if lines[2].start() - lines[1].end() > SIGNATURE_BYTES:
        raise SizeRefused(f"{where}: expected a signature of at most {SIGNATURE_BYTES} bytes, got a longer one")


@contextlib.contextmanager
def _workspace(**files: bytes) -> Iterator[Path]:
    """A folder of ours alone with *files* in it, each 0600; gone afterwards, whatever happened."""
    with tempfile.TemporaryDirectory(prefix="bootplane-gpgv-") as name:  # 0700
        folder = Path(name)
        for file, data in files.items():
            descriptor = os.open(folder / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                out.write(data)
        yield folder


@dataclass(frozen=True, slots=True)
class GpgvRun:
    returncode: int
    status: str  # its --status-fd
    stderr: str


def _gpgv(folder: Path, arguments: list[str], output_bytes: int, where: str) -> GpgvRun:
    program = shutil.which("gpgv")
    if program is None:
        raise VerifierMissing(
            f"{where}: its signature cannot be checked: expected the program gpgv on PATH, got none; "
            f"install the package {GPGV_PACKAGE}"
        )
    command = [program, "--homedir", str(folder), "--status-fd", "1", "--keyring", str(folder / "keyring"), *arguments]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "GNUPGHOME": str(folder)}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
            umask=0o077,
        )  # fmt: skip
    except OSError as error:
        raise VerifierMissing(f"{where}: its signature cannot be checked: {program}: {error.strerror}") from None
    with process:
        with contextlib.suppress(ProcessLookupError):  # it can be done already; the text never outgrows the message
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (output_bytes + 4096, output_bytes + 4096))
        try:
            out, err = process.communicate(timeout=GPGV_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise VerifierMissing(
                f"{where}: its signature cannot be checked: expected an answer of gpgv within {GPGV_TIMEOUT_S:.0f} s, "
                "got none"
            ) from None
    return GpgvRun(process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


@dataclass(slots=True)
class _Signature:
    """What gpgv said between one NEWSIG and the next."""

    verdict: str = ""  # GOODSIG, EXPSIG, EXPKEYSIG, REVKEYSIG, BADSIG or ERRSIG
    key_id: str = ""
    name: str = ""
    valid: list[str] = field(default_factory=list)  # the fields of VALIDSIG
    reason: str = ""  # of ERRSIG
    key_expired: str = ""

    @property
    def digest(self) -> str:
        return self.valid[7] if len(self.valid) > 9 else ""

    def is_good(self, fingerprints: tuple[str, ...]) -> bool:
        return (
            self.verdict == "GOODSIG"
            and self.digest in STRONG_DIGESTS
            and self.valid[8] in _DATA_CLASSES
            and self.valid[9] in fingerprints
        )

    @property
    def who(self) -> str:
        return f"{self.key_id} ({shown(self.name)})" if self.name else self.key_id


def judge(run: GpgvRun, keyring: Keyring, where: str, plaintexts: int) -> tuple[tuple[Signer, ...], tuple[str, ...]]:
    """Good signers and unknown further ones, from gpgv's status lines. Raises SignatureRefused in one sentence.

    *plaintexts* is how many signed texts gpgv must have met inside its input: 1 in a message, 0 beside a detached one.
    """
    signatures, texts, complaints = _read_status(run.status)
    for signature in signatures:
        if signature.verdict == "BADSIG":
            raise BadSignature(
                f"{where}: expected a good signature, got a bad one by key {signature.who}: "
                "the data is not what was signed"
            )
    good = [signature for signature in signatures if signature.is_good(keyring.fingerprints)]
    if not good:
        raise _no_good_signature(run, signatures, keyring, where)
    if texts != plaintexts:
        raise SeveralMessages(f"{where}: expected {plaintexts} signed text in its signature, got {texts}")
    unknown = [s for s in signatures if s.verdict == "ERRSIG" and s.reason == _NO_PUBLIC_KEY]
    explained = bool(unknown) or any(s.verdict == "EXPSIG" for s in signatures)
    strange = [s for s in signatures if not s.verdict or (s.verdict == "ERRSIG" and s not in unknown)]
    if complaints or strange or (run.returncode != 0 and not explained) or run.returncode not in (0, 1, 2):
        raise BadSignature(f"{where}: expected one signature check without complaint, got {_said(run, complaints)}")
    return tuple(_signer(signature) for signature in good), tuple(s.key_id for s in unknown)


def _read_status(status: str) -> tuple[list[_Signature], int, list[str]]:
    """The signatures, the number of signed texts, and what else went wrong, out of the "[GNUPG:]" lines."""
    signatures: list[_Signature] = []
    texts = 0
    complaints: list[str] = []
    for line in status.split("\n"):
        mark, _, rest = line.partition(" ")
        if mark != "[GNUPG:]":
            continue
        keyword, *fields = rest.split(" ")
        if keyword == "NEWSIG" or (not signatures and keyword.endswith("SIG")):
            signatures.append(_Signature())
        if keyword in ("GOODSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "BADSIG") and fields:
            signatures[-1].verdict = keyword
            signatures[-1].key_id = fields[0]
            signatures[-1].name = unquote(" ".join(fields[1:]))
        elif keyword == "ERRSIG" and len(fields) > 5:
            signatures[-1].verdict = keyword
            signatures[-1].key_id = fields[6] if len(fields) > 6 and fields[6] != "-" else fields[0]
            signatures[-1].reason = fields[5]
        elif keyword == "VALIDSIG":
            signatures[-1].valid = fields
        elif keyword == "KEYEXPIRED" and fields and signatures:
            signatures[-1].key_expired = fields[0]
        elif keyword == "PLAINTEXT":
            texts += 1
        elif keyword in ("ERROR", "NODATA", "UNEXPECTED", "FAILURE"):
            complaints.append(rest)
    return signatures, texts, complaints


def _no_good_signature(run: GpgvRun, signatures: list[_Signature], keyring: Keyring, where: str) -> SignatureRefused:
    """The refusal that helps most when several apply: what the operator can mend comes first."""
    by_verdict = {signature.verdict: signature for signature in reversed(signatures)}
    if revoked := by_verdict.get("REVKEYSIG"):
        return RevokedKey(f"{where}: expected a signature by a valid key, got one by {revoked.who}, which is revoked")
    if expired := by_verdict.get("EXPKEYSIG"):
        since = f" since {_date(expired.key_expired)}" if expired.key_expired else ""
        return ExpiredKey(f"{where}: expected a signature by a valid key, got one by {expired.who}, expired{since}")
    if old := by_verdict.get("EXPSIG"):
        since = f" on {_date(old.valid[3])}" if len(old.valid) > 3 else ""
        return ExpiredSignature(f"{where}: expected a signature still valid, got one by {old.who} that expired{since}")
    if weak := by_verdict.get("GOODSIG"):
        if weak.digest and weak.digest not in STRONG_DIGESTS:
            got = _DIGESTS.get(weak.digest, f"digest algorithm {weak.digest}")
            return WeakDigest(
                f"{where}: expected a signature over {', '.join(STRONG_DIGESTS.values())}, "
                f"got one over {got} by {weak.who}"
            )
        return BadSignature(
            f"{where}: expected a data signature by a key of the keyring, got another kind by {weak.who}"
        )
    if error := by_verdict.get("ERRSIG"):
        if error.reason == _NO_PUBLIC_KEY:
            return UnknownKey(
                f"{where}: expected a signature by a key of the keyring ({keyring.describe()}), got one by "
                f"{error.key_id}, which is not in it"
            )
        return BadSignature(f"{where}: expected a signature gpgv can check, got {_said(run, [])}")
    return MissingSignature(f"{where}: expected an OpenPGP signature, got none ({_said(run, [])})")


def _said(run: GpgvRun, complaints: list[str]) -> str:
    lines = [line.removeprefix("gpgv: ") for line in run.stderr.splitlines() if line.strip()]
    words = "; ".join(complaints + lines[-2:])
    return f"gpgv's exit status {run.returncode}: {shown(words, 160) or 'nothing'}"


def _signer(signature: _Signature) -> Signer:
    valid = signature.valid
    return Signer(
        fingerprint=valid[9],
        key=valid[0],
        name=shown(signature.name),
        digest=STRONG_DIGESTS[valid[7]],
        created=_time(valid[2]),
    )


def _time(stamp: str) -> datetime:
    """gpgv prints seconds since 1970, or ISO 8601 ("20380119T031408") past what they can count."""
    if "T" in stamp:
        return datetime.strptime(stamp, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return datetime.fromtimestamp(int(stamp), UTC)


def _date(stamp: str) -> str:
    return _time(stamp).strftime("%Y-%m-%d")
