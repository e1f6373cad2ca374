"""The RSA key by which a phone knows this computer, shared with Google's adb."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
from typing import Any

from amc_tf.errors import PhoneError


def load_keys(folder: str | os.PathLike[str] | None = None) -> tuple[Any, ...]:
    """Returns the signers of adb's key, which is made where there is none.

    Args:
        folder: Where adbkey and adbkey.pub are; None for ~/.android, where Google's adb keeps them. A folder
            that is made is the user's alone (0700); a private key is never readable by others, not even while
            it is written.

    Returns:
        Signers for adb-shell, one.

    Raises:
        PhoneError: The key cannot be read or made.
    """
    from adb_shell.auth.sign_cryptography import CryptographySigner

    home = pathlib.Path.home() / ".android" if folder is None else pathlib.Path(folder)
    private, public = home / "adbkey", home / "adbkey.pub"
    try:
        if not private.exists():
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_private_key(private)
        if not public.exists():
            _write_new(public, _public_key(private), 0o644)
        return (CryptographySigner(str(private)),)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise PhoneError(
            f"The key {private}, by which phones know this computer, cannot be read or made ({error}); check "
            "the permissions of its folder, or move a damaged key away so that a new one is made."
        ) from error


def _make_private_key(path: pathlib.Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_new(path, pem, 0o600)


def _public_key(private: pathlib.Path) -> bytes:
    """Returns a key as a phone wants it: the modulus and what Montgomery's method needs, and a name."""
    import base64

    from adb_shell.auth.keygen import encode_pubkey, get_user_info

    return base64.b64encode(encode_pubkey(str(private))) + get_user_info().encode()


def _write_new(path: pathlib.Path, content: bytes, mode: int) -> None:
    """Writes a whole file at once; one that another process has put there meanwhile stays."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
