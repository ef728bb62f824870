"""The one tree of errors.

Every failure that flserve foresees is an `FlserveError`; a foreign exception is turned into one at the
boundary where it appears, `from` the original. A message says what failed, where, what was expected and
what was found, in one line, so that a command can print it as it is.
"""


class FlserveError(Exception):
    """Anything flserve refuses or cannot do."""


class ArtifactError(FlserveError):
    """Tensors that cannot be an artifact: a dtype, shape or name that is not allowed."""


class DigestMismatch(ArtifactError):
    """Content that is not what its digest says."""


class CodecError(FlserveError):
    """A payload that cannot be made or read: unknown codec, corrupt, truncated or over its bounds."""


class WrongBase(CodecError):
    """A payload that needs another base than the one at hand."""


class StoreError(FlserveError):
    """A store that cannot be opened, read or written."""


class NotFound(StoreError):
    """A version, label, run or blob that the store does not hold."""


class Overtaken(NotFound):
    """What a write builds on was removed by another process meanwhile; nothing was written, trying again helps."""


class Conflict(StoreError):
    """A write that would overwrite what is already there."""


class CorruptBlob(StoreError):
    """A stored blob whose content is no longer what its digest says."""


class ConfigError(FlserveError):
    """A configuration that does not compose or asks for what does not exist."""


class MissingExtra(ConfigError):
    """A feature whose optional packages are not installed."""


class DeliveryError(FlserveError):
    """A message between server and client that does not follow the delivery protocol."""


class ReplyLost(DeliveryError):
    """A reply that was there and could not be taken from the Grid; its client may be asked again."""


class AggregateError(FlserveError):
    """Replies that no next version can be made of."""


class Interrupted(FlserveError):
    """A run that was told to stop, in a thread that no signal reaches."""


class TaskError(FlserveError):
    """A task, data set or model that cannot be built as asked."""
