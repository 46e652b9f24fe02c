# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Errors that a user can mend: a command ends with their message and without a traceback."""


class UserError(Exception):
    """Base class of errors that a user can fix; the message contains all that is needed."""


class ConfigError(UserError, ValueError):
    """A config, an option or an argument is wrong."""


class DataError(UserError, ValueError):
    """A dataset is not as required."""


class CheckpointError(UserError, ValueError):
    """A checkpoint cannot be read, or does not fit."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder does not exist."""


class NotAFolderError(UserError, NotADirectoryError):
    """A folder is needed where a file is."""


class RunStoppedError(UserError, RuntimeError):
    """Ends a run without an error in the code."""


class BadImageError(RunStoppedError):
    """An image cannot be read where none may be missing, or too many cannot be read."""


class CollapseError(RunStoppedError):
    """A branch has collapsed, and the run is to end when one has."""


class CannotWriteError(RunStoppedError):
    """A file cannot be written: the disk is full or read-only, or the folder is of another user."""


class NonFiniteLossError(RunStoppedError, FloatingPointError):
    """A loss is infinite or not a number."""
