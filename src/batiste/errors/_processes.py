"""Errors of programs that run in several processes: one differs, one has failed, one is gone; a trial cannot start."""

from __future__ import annotations

from batiste.errors._base import BatisteError

__all__ = ["LaunchError", "ProcessFailedError", "ProcessLostError", "ProcessesDifferError"]


class ProcessesDifferError(BatisteError, ValueError):
    """Processes of one program have different versions, states, batches or programs; also a ``ValueError``."""

    code = "processes/differ"
    message = "The processes differ, and {what} takes the same in all of them:\n{lines}"
    hint = "{advice}"


class ProcessFailedError(BatisteError, RuntimeError):
    """Another process has failed in what all of them do together; also a ``RuntimeError``."""

    code = "processes/failed"
    message = "Process {process} has failed in {what}, which all processes do together: {reason}"
    hint = "Mend it there: this process has done its part, and nothing was left half done."


class ProcessLostError(BatisteError, RuntimeError):
    """Processes do not come to where all meet, or have died; also a ``RuntimeError``."""

    code = "processes/lost"
    message = (
        "In {what}, {who} did not come within {seconds} s: it is dead, waits for something else, or is far behind."
    )
    hint = (
        "Look at the output of that process first. All processes are to make the same calls in the same order; start "
        "them again, also fewer of them, and the run goes on from its last checkpoint."
    )


class LaunchError(BatisteError, ValueError):
    """A trial with several processes on one machine cannot be started; also a ``ValueError``."""

    code = "launch/argument"
    message = "The processes were not started: {reason}."
    hint = "{cure}"
