"""fio as the ceiling: the same file, the same CPU, no sockets, no protocol, nothing verified."""

import json
import shutil
import subprocess

from measure.servers import last_words, pinned


class FioFailed(Exception):
    pass


def command(path, depth, seconds, cpu=None):
    return pinned(["fio", "--name=ceiling", "--ioengine=io_uring", f"--iodepth={depth}", "--direct=1", "--rw=randread",
                   "--bs=4k", f"--filename={path}", "--readonly", "--allow_file_create=0", "--time_based",
                   f"--runtime={seconds}", "--norandommap", "--randrepeat=0", "--output-format=json"], cpu)


def run(words, seconds):
    """{rate, mb_per_second, p50, p99, cpu_us, busy}, named as load.figures names them."""
    if not shutil.which("fio"):
        raise FioFailed("fio is not installed: make deps-bench")
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds + 60,
                              start_new_session=True)
    except subprocess.TimeoutExpired:
        raise FioFailed("fio was not done in time") from None
    try:
        # What fio has to say besides may stand before the object.
        raw = json.loads(done.stdout[done.stdout.index("{"):])
        job = raw["jobs"][0]
    except (ValueError, KeyError, IndexError):
        raise FioFailed(f"fio: {last_words(done.stderr or done.stdout)}") from None
    if done.returncode != 0 or job.get("error"):
        raise FioFailed(f"fio: {last_words(done.stderr)} (error {job.get('error')})")
    return raw, figures(job)


def figures(job):
    read = job["read"]
    latency = read["clat_ns"].get("percentile", {})
    busy = (job["usr_cpu"] + job["sys_cpu"]) / 100
    return {
        "rate": read["iops"],
        "mb_per_second": read["bw_bytes"] / 1e6,
        "p50": latency["50.000000"] / 1000 if latency else None,
        "p99": latency["99.000000"] / 1000 if latency else None,
        "cpu_us": busy / read["iops"] * 1e6 if read["iops"] else None,
        "busy": busy,
    }
