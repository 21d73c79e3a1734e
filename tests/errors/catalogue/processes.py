"""Several processes: one that does not come, has failed, or has something else; a trial that cannot start."""

from unittest import mock

from batiste import checkpoint, launch
from batiste.errors import LaunchError, ProcessesDifferError, ProcessFailedError, ProcessLostError
from tests.errors.rows import raises, x


@raises(LaunchError, "gone.py")
def a_program_that_is_not_there():
    launch.launch(["gone.py"], processes=2)


@raises(ProcessLostError, "process 1", "300 s")
def a_process_that_does_not_come():
    late = mock.Mock(side_effect=RuntimeError("Some timed out task names:\n1\n"))
    with (
        mock.patch("jax.distributed.is_initialized", return_value=True),  # this is process 0 of two
        mock.patch("jax.process_count", return_value=2),
        mock.patch("orbax.checkpoint.multihost.get_barrier_sync_fn", return_value=late),
    ):
        checkpoint.save("model", {"w": x})


@raises(ProcessFailedError, "Process 1", "No space left")
def a_process_that_has_failed():
    with (
        mock.patch("jax.distributed.is_initialized", return_value=True),  # this is process 0 of two
        mock.patch("jax.process_count", return_value=2),
        mock.patch("batiste._processes.gather", return_value=["", "OSError: No space left on device"]),
    ):
        checkpoint.save("model", {"w": x})


@raises(ProcessesDifferError, "process 1", "epoch: 3", "epoch: 2")
def a_process_with_another_number():
    said = [["", ""], ["{}", '{"value": "0"}'], ['{"value": ["epoch: 2"]}', '{"value": ["epoch: 3"]}']]
    with (
        mock.patch("jax.distributed.is_initialized", return_value=True),  # this is process 0 of two
        mock.patch("jax.process_count", return_value=2),
        mock.patch("batiste._processes.gather", side_effect=said),
    ):
        checkpoint.save("model", {"epoch": 2, "w": x})
