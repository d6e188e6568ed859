"""A Ray cluster on this machine: head and workers in network namespaces, each with a temporary folder of Ray's own.

    lan (a bridge) -- head 10.77.0.1, worker-2 10.77.0.2, ...

Needs root and iproute2. `unplug` ends every process of a worker at once, as pulling its plug would.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

ENVIRONMENT = {  # of nodes and of the sweep: a secret that they share, and patience on a busy machine
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_raylet_start_wait_time_s": "120",
}
START_WITHIN_S = 150
PORT = 6379
RAY_FOLDER = f"{tempfile.gettempdir()}/ray"  # where a node of Ray keeps its sockets


def can_be_had() -> bool:
    """Whether network namespaces may be made here."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter", "mount"))):
        return False
    name = f"norml-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode == 0
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    return made


def ip(*words: str, inside: str | None = None) -> None:
    where = ("ip", "netns", "exec", inside) if inside is not None else ()
    subprocess.run([*where, "ip", *words], check=True, capture_output=True)


@dataclass
class Cluster:
    """A head without CPUs of its own and workers with one each; `hidden`: a folder that workers do not see."""

    folder: Path
    hidden: Path | None = None
    nodes: dict[int, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._prefix = f"norml-{os.getpid()}"
        ip("netns", "add", self._lan)
        ip("link", "add", "lan", "type", "bridge", inside=self._lan)
        ip("link", "set", "lan", "up", inside=self._lan)
        try:
            self.plug_in(1)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self.nodes):
            self.unplug(number)
        ip("netns", "del", self._lan)

    @property
    def address(self) -> str:
        return f"10.77.0.1:{PORT}"

    @property
    def _lan(self) -> str:
        return f"{self._prefix}-lan"

    def _name(self, number: int) -> str:
        return f"{self._prefix}-{number}"

    def plug_in(self, number: int) -> None:
        """Start the head (1) or a worker; returns when Ray says that it runs."""
        name, address = self._name(number), f"10.77.0.{number}"
        ip("netns", "add", name)
        ip("link", "add", f"eth{number}", "type", "veth", "peer", "name", "eth0", "netns", name, inside=self._lan)
        ip("link", "set", f"eth{number}", "master", "lan", "up", inside=self._lan)
        for words in (("link", "set", "lo", "up"), ("addr", "add", f"{address}/24", "dev", "eth0")):
            ip(*words, inside=name)
        ip("link", "set", "eth0", "up", inside=name)
        start = [f"--node-ip-address={address}", "--disable-usage-stats", "--object-store-memory=100000000", "--block"]
        start += ["--num-gpus=0", *self._role(number)]
        mounts = f"mkdir -p {RAY_FOLDER} && mount -t tmpfs none {RAY_FOLDER}"
        if self.hidden is not None and number > 1:
            mounts += f" && mount -t tmpfs none {self.hidden}"
        log = self.folder / f"node-{number}.log"
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *start]
        with log.open("wb") as file:
            self.nodes[number] = subprocess.Popen(
                ["ip", "netns", "exec", name, "unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh", *ray],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | ENVIRONMENT,
            )
        until = time.monotonic() + START_WITHIN_S
        while "--block" not in log.read_text(errors="replace"):  # "--block: this command will now block forever"
            assert self.nodes[number].poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < until, log.read_text(errors="replace")
            time.sleep(0.2)

    def _role(self, number: int) -> list[str]:
        if number == 1:
            return ["--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false"]
        return [f"--address={self.address}", "--num-cpus=1"]

    def processes(self, number: int) -> list[int]:
        """Ids of all processes of a node."""
        words = ["ip", "netns", "pids", self._name(number)]
        return [int(pid) for pid in subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()]

    def unplug(self, number: int) -> None:
        """End a node's processes, all of them, and its network."""
        while pids := self.processes(number):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        self.nodes.pop(number).wait()
        ip("netns", "del", self._name(number))

    def on_head(self, *words: str) -> list[str]:
        """A command as it is run on the head: with its network and its folder of Ray's."""
        (inside,) = [pid for pid in self.processes(1) if _is_ray_start(pid)][:1]
        return ["nsenter", f"--target={inside}", "--net", "--mount", f"--wd={Path.cwd()}", *words]


def _is_ray_start(pid: int) -> bool:
    with suppress(OSError):
        return b"ray.scripts.scripts" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
