"""The exceptions of the toolkit: one root, one subclass per thing that can go wrong."""


class AmcError(Exception):
    """Root of every error the toolkit raises on purpose; its message is one sentence for the user."""


class ModelError(AmcError, ValueError):
    """Raised when a model cannot be read, cannot be analysed, or has nothing that can be pruned."""


class PlanError(AmcError, ValueError):
    """Raised when a pruning plan is malformed or does not belong to the model it is applied to."""


class BudgetError(AmcError, ValueError):
    """Raised when a budget is malformed or smaller than the smallest network the search may build."""


class DataError(AmcError, ValueError):
    """Raised when a data source is missing, unreadable, or does not fit the model."""


class SettingsError(AmcError, ValueError):
    """Raised when a setting is outside its range or names something that does not exist."""


class ConversionError(AmcError):
    """Raised when a network cannot be converted to TFLite or the converted network disagrees with it."""


class MeasurementError(AmcError):
    """Raised when a latency cannot be measured on the device."""


class RewardError(AmcError):
    """Raised when the reward of a network is no finite number."""


class PhoneError(MeasurementError):
    """Raised when a phone cannot be reached, refuses the connection, or drops out while it works."""


class PhoneTimeoutError(PhoneError):
    """Raised when a phone does not answer in time; the command may still be running on it."""


class RunStoppedError(MeasurementError):
    """Raised when a run stops in the middle because its phone has gone; what it has found so far is saved."""


class RunFolderError(AmcError):
    """Raised when a run folder exists, is locked, is incomplete, or cannot be written."""


class ClusterError(AmcError):
    """Raised when a cluster cannot be reached, lacks what is asked of it, or its engine is not installed."""
