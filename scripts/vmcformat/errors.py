"""Why bytes were refused: the classes of `expect:` in the vector files."""


class FormatError(Exception):
    """A refusal; `kind` is what a vector file says after `expect:`."""

    kind = "error"


class Foreign(FormatError):
    """Not one of ours: the magic is wrong."""

    kind = "foreign"


class Unsupported(FormatError):
    """Made by a newer version, or needs a feature that version 1 does not know."""

    kind = "unsupported"


class Corrupt(FormatError):
    """Ours, but damaged or forged."""

    kind = "corrupt"


class Denied(FormatError):
    """Not signed by those who must have."""

    kind = "denied"


class KeyUnavailable(FormatError):
    """The key is not to be had on this host."""

    kind = "key-unavailable"


class KeyRejected(FormatError):
    """The bytes may be right; the key or the passphrase is not the one they were made with."""

    kind = "key-rejected"
