"""Which machine this is: what a reader must know before a number means anything."""

import hashlib
import os
import pathlib
import platform
import resource
import subprocess
import time
from datetime import datetime, timezone


def measuring_cpus():
    """(server's, generator's): the first two CPUs that we may use, or (None, None), unpinned, where there is one."""
    cpus = sorted(os.sched_getaffinity(0))
    return (cpus[0], cpus[1]) if len(cpus) >= 2 else (None, None)


def pins():
    """The same in words."""
    server, generator = measuring_cpus()
    if server is None:
        return "NOT PINNED: there are fewer than 2 CPUs, and server and generator take them from each other"
    return f"server on CPU {server}, generator on CPU {generator}"


def identity():
    """On another one, another measurement is due."""
    return {
        "kernel": f"{platform.release()} {platform.machine()}",
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "mitigations": mitigations(),
    }


def facts(data=None):
    """Of the machine, of the tree and of `data`, the folder that holds the files, where files are served."""
    return identity() | {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "file_system": file_system(data) if data else None,
        "busy_cpus": busy_cpus(),
        "commit": commit(),
    }


LOOK_SECONDS = 0.3
QUIET_CPUS = 0.1


def busy_cpus(stat="/proc/stat"):
    """How many CPUs others keep busy while we only wait; None where nobody counts. Not the load average, which still
    has in it what was measured just before."""
    def busy_ticks():
        user, nice, system, _, _, irq, softirq, steal = map(
            int, pathlib.Path(stat).read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9])
        return user + nice + system + irq + softirq + steal
    try:
        before, began = busy_ticks(), time.monotonic()
        time.sleep(LOOK_SECONDS)
        ticks = busy_ticks() - before
    except (OSError, ValueError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)


def describe(facts):
    """The same as lines of text."""
    system, git = facts["file_system"], facts["commit"]
    lines = [
        f"machine      {facts['cpus']} CPUs, {facts['cpu']}, {facts['memory_bytes'] / 2**30:.1f} GiB; "
        f"Linux {facts['kernel']}",
        f"mitigations  {facts['mitigations']}",
    ]
    if system:
        lines.append(f"files        {system['folder']}: {system['type']} on {system['device']}, readahead "
                     f"{system['readahead_kb']} KiB")
    lines += [
        f"tree         commit {git['commit']}{', with changes that are not committed' if git['dirty'] else ''}; "
        f"{facts['date']}",
    ]
    if (busy := facts.get("busy_cpus") or 0) > QUIET_CPUS:
        lines.append(f"NOT QUIET    something else kept {busy:.2f} CPUs busy before this began: the numbers may be partly "
                     "its own")
    return lines


def cpu_model():
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "CPU of unknown model"


def mitigations(folder="/sys/devices/system/cpu/vulnerabilities"):
    """Those that cost something here: each system call pays for them."""
    active = []
    try:
        for file in sorted(pathlib.Path(folder).iterdir()):
            state = file.read_text().strip()
            if state.startswith("Mitigation:"):
                active.append(f"{file.name} ({state.removeprefix('Mitigation:').split(';')[0].split(',')[0].strip()})")
            elif state.startswith("Vulnerable"):
                active.append(f"{file.name} ({state[0].lower()}{state[1:]})")
    except OSError:
        return "unknown"
    return ", ".join(active) or "none"


def file_system(folder):
    """The mount below which `folder` lies: the longest mount point that is above it."""
    shown, folder = str(folder), os.path.realpath(folder)
    found = {"folder": shown, "type": "unknown", "device": "unknown", "readahead_kb": "unknown"}
    longest = -1
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        number, point = before.split()[2], before.split()[4]
        if len(point) >= longest and os.path.commonpath([folder, point]) == point:
            longest = len(point)
            kind, device = after.split()[:2]
            readahead = pathlib.Path(f"/sys/dev/block/{number}/queue/read_ahead_kb")
            if not readahead.exists():  # a partition: the queue belongs to the disk
                readahead = pathlib.Path(f"/sys/dev/block/{number}/../queue/read_ahead_kb")
            found |= {"type": kind, "device": device,
                      "readahead_kb": int(readahead.read_text()) if readahead.exists() else "unknown"}
    return found


def hypervisor():
    """What kind of virtual machine this is, as lscpu(1) calls it; None of a real one."""
    try:
        lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=True,
                               env=os.environ | {"LC_ALL": "C"}).stdout.splitlines()
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("Hypervisor vendor:")), None)
    except (OSError, subprocess.CalledProcessError):
        return None


LIMITS = {  # what decides how many connections, how much locked memory, and what may be looked at
    "somaxconn": "/proc/sys/net/core/somaxconn",
    "tcp_congestion_control": "/proc/sys/net/ipv4/tcp_congestion_control",
    "io_uring_disabled": "/proc/sys/kernel/io_uring_disabled",
    "perf_event_paranoid": "/proc/sys/kernel/perf_event_paranoid",
    "transparent_hugepage": "/sys/kernel/mm/transparent_hugepage/enabled",
}


def limits():
    """{name: text}; what this kernel does not have is left out."""
    def text_of(number):
        return "unlimited" if number == resource.RLIM_INFINITY else str(number)
    found = {"user": "root" if os.geteuid() == 0 else "not root",
             "descriptors": text_of(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
             "locked_memory": text_of(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0])}
    for name, path in LIMITS.items():
        try:
            found[name] = pathlib.Path(path).read_text().strip()
        except OSError:
            pass
    return found


def digest(paths):
    """Of what these files contain. Another program is another measurement, whatever its commit says."""
    total = hashlib.sha256()
    for path in paths:
        try:
            total.update(hashlib.sha256(pathlib.Path(path).read_bytes()).digest())
        except OSError:
            total.update(b"not there")
    return total.hexdigest()[:16]


def commit():
    def git(*words):
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True,
                              cwd=pathlib.Path(__file__).parent).stdout.strip()
    try:
        return {"commit": git("rev-parse", "--short=12", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": False}
