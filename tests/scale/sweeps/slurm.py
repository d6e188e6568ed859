"""A Slurm of one node on this machine, from Debian's slurmctld, slurmd and munge; needs root."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

READY_WITHIN_S = 60
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel", "sinfo", "scontrol")


def can_be_had() -> bool:
    """Whether everything is installed, and this is root, which its daemons want to be."""
    return os.geteuid() == 0 and all(map(shutil.which, PROGRAMS))


class Slurm:
    """Its daemons, with a configuration, ports and sockets of their own below `folder`."""

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        self.folder, self._cpus = folder, cpus
        self._daemons: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> Self:
        for name in ("munge", "state", "spool"):
            (self.folder / name).mkdir(mode=0o755)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._write_configuration()
        munge = self.folder / "munge"
        self._start(
            *("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self._socket}"),
            *(f"--pid-file={munge / 'pid'}", f"--seed-file={munge / 'seed'}", f"--log-file={munge / 'log'}"),
        )
        self._start("slurmctld", "-D", "-c")
        self._start("slurmd", "-D", "-c", "-N", "localhost")
        until = time.monotonic() + READY_WITHIN_S
        while "idle" not in self.said("sinfo", "--noheader", "--format=%T"):
            assert time.monotonic() < until, self.logs()
            time.sleep(0.3)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["scancel", "--user=root", "--signal=KILL", "--full"], env=self._environment(), check=False)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    @property
    def _socket(self) -> Path:
        return self.folder / "munge" / "socket"

    def _environment(self) -> dict[str, str]:
        return os.environ | self.environment

    def _start(self, *words: str) -> None:
        with (self.folder / f"{words[0]}.out").open("wb") as file:
            self._daemons.append(
                subprocess.Popen(words, env=self._environment(), stdout=file, stderr=subprocess.STDOUT)
            )
        if words[0] == "munged":
            until = time.monotonic() + READY_WITHIN_S
            while not self._socket.exists():
                assert time.monotonic() < until, self.logs()
                time.sleep(0.05)

    def _write_configuration(self) -> None:
        ports = _free_ports(2)
        name = socket.gethostname().split(".")[0]
        lines = {
            "ClusterName": "tests",
            "SlurmctldHost": f"{name}(127.0.0.1)",
            "SlurmctldPort": ports[0],
            "SlurmdPort": ports[1],
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self._socket}",
            "CredType": "cred/munge",
            "SlurmUser": "root",
            "SlurmdUser": "root",
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": self.folder / "spool",
            "SlurmctldPidFile": self.folder / "slurmctld.pid",
            "SlurmdPidFile": self.folder / "slurmd.pid",
            "ProctrackType": "proctrack/pgid",
            "TaskPlugin": "task/none",
            "MpiDefault": "none",
            "SchedulerType": "sched/backfill",
            "SchedulerParameters": "sched_interval=1,batch_sched_delay=0",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU",
            "AccountingStorageType": "accounting_storage/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "ReturnToService": 2,
            "KillWait": 30,
        }
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        text += f"NodeName=localhost NodeHostname={name} NodeAddr=127.0.0.1 CPUs={self._cpus} State=UNKNOWN\n"
        text += "PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO\n"
        (self.folder / "slurm.conf").write_text(text)

    def said(self, *words: str) -> str:
        """What one of its programs prints."""
        done = subprocess.run(words, env=self._environment(), capture_output=True, text=True, check=False)
        return done.stdout

    def logs(self) -> str:
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')}" for path in self.folder.glob("*.out"))


def _free_ports(count: int) -> Sequence[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
