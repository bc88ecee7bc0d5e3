"""Training on several devices: one process for each, tied together so that none outlives the others.

Rank 0 is the process that speaks and writes; the others compute. Who starts them:

* Lightning: rank 0 runs the same command once more for every other device of this machine.
* torchrun or SLURM's srun: they say by variables of the environment how many there are.
"""

from __future__ import annotations

import os
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy

from supernet.errors import SupernetError
from supernet.ranks import spread

TIMEOUT = timedelta(minutes=5)
"""How long a rank waits for one that lives and does nothing; what rank 0 does alone, such as writing a checkpoint to a
slow disk, has to be done by then. A rank that has died is noticed earlier: see the README."""

_PARENT, _SHARED = "SUPERNET_PARENT", "SUPERNET_SHARED"
"""Variables of the environment by which rank 0 tells the processes that it starts who it is, and what was decided."""


class DataParallel(DDPStrategy):
    """Lightning's DDP without its wrapper: the steps of this package average their gradients themselves.

    The wrapper reduces gradients in the backward pass of one loss over all parameters. A bilevel step has two losses
    over different parameters, and most paths leave parameters unused. So the module stays as it is; all ranks begin
    with the parameters and buffers of rank 0.

    Args:
        timeout: how long a rank waits for another that does not answer.
        options: of Lightning's strategy.
    """

    def __init__(self, timeout: timedelta = TIMEOUT, **options: Any) -> None:
        super().__init__(timeout=timeout, **options)
        self._watch: threading.Event | None = None
        if "LOCAL_RANK" not in os.environ:  # else some other process has started this one
            os.environ[_PARENT] = str(os.getpid())

    def setup_environment(self) -> None:
        """Meet the other ranks, and from now on end with the process that has started this one."""
        parent = self._parent()
        if parent is not None and self._watch is None:
            self._watch = end_with(parent)
        super().setup_environment()

    def _parent(self) -> int | None:
        """The process that has started this one, if that is rank 0 or torchrun."""
        if isinstance(self.cluster_environment, TorchElasticEnvironment):
            return os.getppid()
        is_child = isinstance(self.cluster_environment, LightningEnvironment) and self.local_rank > 0
        if not is_child or _PARENT not in os.environ:
            return None
        parent = int(os.environ[_PARENT])
        inherited = parent != os.getppid() and Path(f"/proc/{parent}").exists()  # from a process further up
        return None if inherited else parent

    def setup(self, trainer: Trainer) -> None:
        """Refuse what would be ignored."""
        if self._layer_sync is not None:
            raise SupernetError("Lightning's sync_batchnorm does not know search cells; pass --model.sync_batchnorm")
        super().setup(trainer)

    def configure_ddp(self) -> None:
        """Begin with the state of rank 0."""
        assert self.model is not None
        spread([*self.model.parameters(), *self.model.buffers()])

    def teardown(self) -> None:
        """Rank 0 may leave from now on."""
        if self._watch is not None:
            self._watch.set()
            self._watch = None
        super().teardown()


def end_with(parent: int) -> threading.Event:
    """End this process as soon as that is no longer its parent, unless the event that it returns is set before.

    A process that waits for others does not look at signals, and one whose parent was killed is told nothing.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            if os.getppid() != parent:
                print("error: the process that has started this one is gone", file=sys.stderr, flush=True)
                os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    return done


class Launched(NamedTuple):
    """How many processes a launcher has started."""

    devices: int
    """On each machine."""
    num_nodes: int


def launched() -> Launched | None:
    """What torchrun or srun has started; None if this process is on its own, or Lightning has started it."""
    found = os.environ
    if TorchElasticEnvironment.detect():
        devices = int(found["LOCAL_WORLD_SIZE"])
        return Launched(devices, int(found["WORLD_SIZE"]) // devices)
    # Inside sbatch, but not under srun, there is a job and nobody who starts its tasks.
    if found.get("SLURM_JOB_NAME") not in ("bash", "interactive") and "SLURM_STEP_NUM_TASKS" in found:
        nodes = int(found.get("SLURM_STEP_NUM_NODES", 1))
        return Launched(int(found["SLURM_STEP_NUM_TASKS"]) // nodes, nodes)
    return None


def launched_defaults() -> dict[str, int]:
    """Defaults of ``--trainer.devices`` and ``--trainer.num_nodes``: what a launcher has started, or one device."""
    there = launched()
    return {"devices": 1, "num_nodes": 1} if there is None else there._asdict()


def is_first() -> bool:
    """Whether this is rank 0, as far as the environment tells; asked before there is a trainer."""
    name = "LOCAL_RANK" if launched() is None else "RANK" if TorchElasticEnvironment.detect() else "SLURM_PROCID"
    return int(os.environ.get(name, 0)) == 0


def choose_strategy(devices: Any, num_nodes: int, strategy: Any) -> Any:
    """The strategy for what a command line asks for.

    Args:
        devices: number of devices, a list of them, "auto" or -1.
        num_nodes: number of machines.
        strategy: what the command line asks for by name, or as a class.

    Raises:
        SupernetError: nobody starts the processes of other machines, or the strategy is another one.
    """
    several = num_nodes > 1 or str(devices).strip("[] ") not in ("0", "1")
    if num_nodes > 1 and launched() is None:
        raise SupernetError(
            f"{num_nodes} nodes need a launcher that starts a process for each device: torchrun, or srun under SLURM"
        )
    if strategy == "ddp" or (strategy == "auto" and several):
        return DataParallel()
    if several and not str(getattr(strategy, "class_path", "")).endswith(f"{__name__}.{DataParallel.__name__}"):
        raise SupernetError(f"several devices need --trainer.strategy auto, got {strategy}")
    return strategy


def check_processes(trainer: Trainer) -> None:
    """Raise `SupernetError` for a training that is not on all processes that a launcher has started."""
    there = launched()
    if there is not None and there.devices * there.num_nodes != trainer.world_size:
        raise SupernetError(
            f"the launcher has started {there.devices * there.num_nodes} processes, but the training is on"
            f" {trainer.world_size}; leave --trainer.devices and --trainer.num_nodes out"
        )


def decided(trainer: Trainer, choice: str) -> str:
    """What rank 0 has chosen, on all ranks; asked before training starts.

    Raises:
        SupernetError: the processes were started in some other way, and cannot know.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, DataParallel):
        return choice
    if not isinstance(strategy.cluster_environment, LightningEnvironment):
        strategy.setup_environment()  # the processes are all there; Lightning does this again, to no effect
        return strategy.broadcast(choice)
    if strategy.global_rank == 0:
        os.environ[_SHARED] = choice  # those that it starts inherit it
    if _SHARED not in os.environ:
        raise SupernetError("LOCAL_RANK is set, but not by torchrun, srun or --trainer.devices; unset it, or use them")
    return os.environ[_SHARED]
