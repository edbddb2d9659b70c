"""Signing a boot source: one OpenPGP key in a GNUPGHOME of its own, by gpg.

The other half of signature.py, for whoever publishes: the demo, ``source publish``, tests. Signatures are over SHA-512.

Invariant: no key, agent or setting of the user who runs this is touched or asked.
Left to others: what is signed (control.mirror_publish), keeping *home* safe: its key has no passphrase.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from bootplane.control.errors import BootplaneError

GPG_TIMEOUT_S = 120.0
SOCKET_PATH_BYTES = 107  # sun_path without its NUL; gpg-agent's sockets stand in the key's home


class PublishError(BootplaneError):
    """A boot source cannot be published; nothing of its index was changed."""

    status = 422
    title = "cannot publish"
    kind = "publish"


class Signer:
    """An OpenPGP key in a GNUPGHOME of its own, without a passphrase; a context manager that stops its gpg-agent."""

    def __init__(self, home: Path, fingerprint: str) -> None:
        self.home = home
        self.fingerprint = fingerprint
        self._short: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def generate(
        cls,
        home: Path,
        user_id: str = "bootplane boot source <source@bootplane.invalid>",
        *,
        algorithm: str = "rsa3072",
        expires: str = "never",
        options: Iterable[str] = (),
    ) -> Signer:
        """A new signing key in *home*. *algorithm* and *expires* as gpg takes them (ed25519, rsa2048; 1y, never).

        *options* go to gpg as they are (``--faked-system-time``, ``--cert-digest-algo``).
        """
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        signer = cls(home, "")
        words = signer.gpg(
            *options, "--status-fd", "1", "--quick-generate-key", user_id, algorithm, "sign", expires
        ).split()
        signer.fingerprint = words[words.index(b"KEY_CREATED") + 2].decode("ascii")
        return signer

    @classmethod
    def imported(cls, home: Path, secret: bytes, name: str) -> Signer:
        """The one secret key in *secret* (binary or armored), in *home*. *name* is for messages.

        Raises PublishError when there is none, when there are several, or when it can be used with a passphrase only.
        """
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        signer = cls(home, "")
        try:
            signer.gpg("--import", stdin=secret)
            listed = signer.gpg("--with-colons", "--list-secret-keys").decode("utf-8", "replace").splitlines()
        except PublishError as error:
            signer.close()
            raise PublishError(f"{name}: expected a secret OpenPGP key, got something else: {error}") from None
        keys = [line.split(":") for line in listed]
        primary = [number for number, fields in enumerate(keys) if fields[0] == "sec"]
        if len(primary) != 1:
            signer.close()
            raise PublishError(f"{name}: expected one secret OpenPGP key, got {len(primary)}")
        signer.fingerprint = next(fields[9] for fields in keys[primary[0] :] if fields[0] == "fpr")
        try:
            signer.clearsign(b"a key that cannot sign is found out before anything is laid out\n")
        except PublishError as error:
            signer.close()
            raise PublishError(f"{name}: expected a key that signs without a passphrase: {error}") from None
        return signer

    def secret(self) -> str:
        """The secret key, armored: what ``imported`` takes."""
        return self.gpg("--armor", "--export-secret-keys", self.fingerprint).decode("ascii")

    def clearsign(self, data: bytes, *, options: Iterable[str] = ()) -> bytes:
        return self._sign(data, ("--clearsign", *options))

    def detach(self, data: bytes, *, options: Iterable[str] = ()) -> bytes:
        return self._sign(data, ("--detach-sign", "--armor", *options))

    def public(self, *, armored: bool = False) -> bytes:
        """The keyring a reader needs."""
        return self.gpg(*(["--armor"] if armored else []), "--export", self.fingerprint)

    def _sign(self, data: bytes, options: Iterable[str]) -> bytes:
        return self.gpg("--digest-algo", "SHA512", "--local-user", self.fingerprint, *options, stdin=data)

    def gpg(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Standard output of gpg on this home. Raises PublishError with gpg's last words."""
        program = shutil.which("gpg")
        if program is None:
            raise PublishError("gpg: expected it on PATH to sign a boot source, got none; install the package gnupg")
        command = [program, "--homedir", self._homedir(), "--batch", "--no-tty", "--yes", "--pinentry-mode", "loopback"]
        try:
            done = subprocess.run(
                [*command, "--passphrase", "", *arguments],
                input=stdin,
                capture_output=True,
                timeout=GPG_TIMEOUT_S,
                env={**os.environ, "LC_ALL": "C"},
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise PublishError(f"gpg {arguments[0]}: expected an end within {GPG_TIMEOUT_S:.0f} s, got none") from None
        if done.returncode:
            words = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["nothing"]
            raise PublishError(f"gpg in {self.home}: expected success, got exit status {done.returncode}: {words[-1]}")
        return done.stdout

    def _homedir(self) -> str:
        """*home*, by a short name where a socket in it would have too long a one for the kernel."""
        if len(os.fsencode(self.home / "S.gpg-agent.browser")) <= SOCKET_PATH_BYTES:
            return str(self.home)
        if self._short is None:
            self._short = tempfile.TemporaryDirectory(prefix="bp-gpg-")
            (Path(self._short.name) / "home").symlink_to(self.home.absolute())
        return f"{self._short.name}/home"

    def close(self) -> None:
        """Stop the gpg-agent that gpg started for this home. The key stays."""
        if gpgconf := shutil.which("gpgconf"):
            subprocess.run(
                [gpgconf, "--homedir", self._homedir(), "--kill", "gpg-agent"], capture_output=True, check=False
            )
        if self._short is not None:
            self._short.cleanup()
            self._short = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
