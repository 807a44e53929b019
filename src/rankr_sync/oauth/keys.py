"""The keys that stored tokens are sealed with: from the configuration, a file, or the system's keyring.

Several keys are accepted, one after the other: the first seals, all of them open. So a key is changed by putting the
new one before the old one, and dropping the old one when every token was refreshed: after a day.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankr_sync.errors import BadConfiguration

if TYPE_CHECKING:  # loaded where it is used: most commands have no grants, and it is slow to load
    from cryptography.fernet import MultiFernet

HOW = "make a key with: rankr-sync auth key; then set RANKR_SYNC_OAUTH__KEY to it (or oauth.key_file, or oauth.keyring)"
SERVICE, NAME = "rankr-sync", "oauth-key"
"""Under which the keyring keeps the key."""


def new_key() -> str:
    """A key that nobody has had before."""
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()


def find_keys(key: str | None, key_file: Path | None, *, keyring: bool) -> "MultiFernet":
    """The keys, from the first of these places that is configured. Raises BadConfiguration when there is none."""
    if key is not None and key.strip():
        return parse_keys(key, "oauth.key")
    if key_file is not None:
        try:
            return parse_keys(key_file.read_text(encoding="ascii"), "oauth.key_file")
        except (OSError, UnicodeDecodeError):
            raise BadConfiguration(
                f"the key file {key_file} cannot be read", hint="check oauth.key_file and its permissions"
            ) from None
    if keyring:
        return parse_keys(_keyring().get_password(SERVICE, NAME) or "", "the keyring")
    raise BadConfiguration("there is no key to encrypt OAuth tokens with", hint=HOW)


def parse_keys(written: str, place: str) -> "MultiFernet":
    """Keys that stand one after the other, separated by commas or white space. Raises BadConfiguration."""
    from cryptography.fernet import Fernet, MultiFernet

    keys = written.replace(",", " ").split()
    if not keys:
        raise BadConfiguration(f"{place} holds no key", hint=HOW)
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError:
        raise BadConfiguration(f"{place} holds something that is no key", hint=HOW) from None


def save_in_keyring(key: str) -> None:
    """Keep the key in the system's keyring, in front of those that it has. Raises BadConfiguration."""
    ring = _keyring()
    before = ring.get_password(SERVICE, NAME)
    ring.set_password(SERVICE, NAME, f"{key} {before}" if before else key)


def _keyring() -> Any:
    try:
        import keyring
        from keyring.backends.fail import Keyring as NoKeyring
    except ImportError:
        raise BadConfiguration(
            "oauth.keyring needs a package that is not installed",
            hint="install it with: pip install 'rankr-sync[keyring]'; or use oauth.key_file",
        ) from None
    if isinstance(keyring.get_keyring(), NoKeyring):
        raise BadConfiguration("this system has no keyring", hint="use oauth.key_file, or RANKR_SYNC_OAUTH__KEY")
    return keyring
