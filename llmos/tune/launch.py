"""Starting a training verb as several processes: on this machine, or by torchrun's agent on one or more.

The processes run the very same command line; that a launcher started them they see in their environment, so
`torchrun … -m llmos tune train …` works just as well. torchrun's agent starts all of them again when one
dies, and each goes on from the last state. Nothing here is sandboxed: training is a person's own program.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence

import torch
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from llmos.errors import CallFailed, UsageError
from llmos.tune import launch_ray
from llmos.tune.train import check_shares
from llmos.tune.world import launched

_RESTARTS = 3
_OUR_EXIT_CODES = range(2, 10)  # of the contract: whoever ends with one has said why
_SETTLED_S = 10  # a machine that comes later makes all start again


def add_options(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("several processes")
    group.add_argument(
        "--launch",
        choices=("local", "torchrun", "ray"),
        default="local",
        help="local: processes of this machine; torchrun: they start again from the last state when one "
        "dies; ray: so they do as a job of a Ray cluster",
    )
    group.add_argument("--processes", type=int, default=1, metavar="N", help="on each machine; one a GPU")
    group.add_argument(
        "--fsdp",
        action="store_true",
        help="spread weights, gradients and the optimiser's state over the processes (FSDP2), instead of a "
        "copy for each (DDP)",
    )
    group.add_argument(
        "--max-restarts", type=int, metavar="N", help=f"with torchrun or ray; {_RESTARTS} if not given"
    )
    group.add_argument("--nodes", default="1", metavar="N|MIN:MAX", help="machines, with torchrun")
    group.add_argument(
        "--rendezvous", default="", metavar="HOST:PORT", help="where the machines meet: one of them"
    )

    group.add_argument(
        "--ray", metavar="URL", help="the cluster's dashboard; http://127.0.0.1:8265 if not given"
    )


def wanted(given: argparse.Namespace) -> bool:
    """Whether other processes are to be started, and this one only waits for them."""
    _check(given)
    return not launched() and (given.launch != "local" or given.processes > 1)


def train(words: Sequence[str], given: argparse.Namespace) -> int:
    """`llmos tune train WORDS`, where `wanted`."""
    if given.launch == "ray":
        return launch_ray.run(words, given, restarts=_restarts(given))
    return run(["-m", "llmos", "tune", "train", *words], given)


def run(command: Sequence[str], given: argparse.Namespace) -> int:
    """Python with the words of `command`, in every process; returns when all have ended."""
    # A store that is shared between restarts still holds the addresses of processes that are gone.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the errors below say it
    with tempfile.TemporaryDirectory(prefix="llmos-launch-") as errors:
        try:
            elastic_launch(_config(given, errors), sys.executable)("-P", *command)
        except ChildFailedError as error:
            failure = error.get_first_failure()
        except SignalException as stop:
            if stop.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            sys.exit(128 + stop.sigval)
        else:
            return 0
    return _failed(*failure, given)


def _config(given: argparse.Namespace, errors: str) -> LaunchConfig:
    least, most = _nodes(given.nodes)
    return LaunchConfig(
        min_nodes=least,
        max_nodes=most,
        nproc_per_node=given.processes,
        max_restarts=_restarts(given),
        rdzv_backend="c10d",
        rdzv_endpoint=given.rendezvous or "127.0.0.1:0",
        rdzv_configs={"last_call_timeout": _SETTLED_S},
        run_id=f"llmos-{given.rendezvous or os.getpid()}",
        local_addr=None if given.rendezvous else "127.0.0.1",
        monitor_interval=0.5,
        logs_specs=DefaultLogsSpecs(log_dir=errors),
    )


def _failed(rank: int, failure: ProcessFailure, given: argparse.Namespace) -> int:
    if failure.exitcode in _OUR_EXIT_CODES:
        return int(failure.exitcode)
    how = (
        f"was killed by {signal.Signals(-failure.exitcode).name}"
        if failure.exitcode < 0
        else f"ended with exit code {failure.exitcode}"
    )
    restarts = _restarts(given)
    raise CallFailed(
        f"process {rank} {how}" + (f", and {restarts} restarts were used up" if restarts else ""),
        "Run the same command again: it goes on from the last state."
        + (" SIGKILL often means that memory ran out: give --batch-tokens a smaller number."
           if failure.exitcode == -signal.SIGKILL else ""),
    )  # fmt: skip


def _restarts(given: argparse.Namespace) -> int:
    if given.launch == "local":
        return 0
    return _RESTARTS if given.max_restarts is None else int(given.max_restarts)


def _nodes(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    if not (least.isdecimal() and (most or least).isdecimal() and 0 < int(least) <= int(most or least)):
        raise UsageError(
            f"--nodes {text}: neither a number of machines nor MIN:MAX", "Write --nodes 2 or --nodes 1:4."
        )
    return int(least), int(most or least)


def _check(given: argparse.Namespace) -> None:
    """Whatever can be known to go wrong before any process is started."""
    if given.processes < 1:
        raise UsageError(f"--processes {given.processes}: at least one is needed", "Write --processes 2.")
    if given.max_restarts is not None and (given.max_restarts < 0 or given.launch == "local"):
        raise UsageError(
            "--max-restarts is a number from 0 up, and belongs to --launch torchrun or ray",
            "Add --launch torchrun; processes started by --launch local are not started again.",
        )
    nodes = _nodes(given.nodes)
    if nodes != (1, 1) and not (given.launch == "torchrun" and given.rendezvous):
        raise UsageError(
            "several machines need --launch torchrun and a place to meet",
            "Give the same --rendezvous HOST:PORT on each, HOST being one of them.",
        )
    if nodes[0] == nodes[1]:
        check_shares(given.accumulate, given.processes * nodes[0])
    gpus = torch.cuda.device_count()
    if gpus and given.launch != "ray" and given.processes > gpus:
        raise UsageError(
            f"{given.processes} processes need as many GPUs, and torch sees {gpus}",
            f"Give --processes {gpus}, or hide the GPUs with CUDA_VISIBLE_DEVICES= in front.",
        )
    if given.fsdp and not launched() and given.processes * nodes[1] == 1 and given.launch == "local":
        raise UsageError("--fsdp has nothing to spread over", "Give --processes 2 or more as well.")
