"""Runs the load generator (bench/load/README.md) and believes nothing but its JSON.

There is a rate, or there is LoadFailed with the one sentence that says why not: a wrong byte is not a slow run.
"""

import json
import subprocess
import time

from measure.servers import how_it_ended, last_words, pinned

# Of one run. Runs of one server differ by the process and the moment, not by their length: the CPU time of a message
# scatters by 1 to 3 % at 0.3 s, at 1 s and at 3 s alike (bench/README.md). So the time goes into more of them.
RUN_SECONDS = 0.3

TICK_SECONDS = 0.25
SPARE_SECONDS = 60  # beyond what was asked for: filling connections, finishing what is under way


class LoadFailed(Exception):
    def __init__(self, sentence, raw=None):
        super().__init__(sentence)
        self.raw = raw


def command(generator, where, options, cpu=None):
    """`build/load MODE …` as it is run, and as a reader can run it again. `where` is a port, or a socket's path."""
    mode, *rest = options
    target = ["--unix", where] if isinstance(where, str) else ["--port", str(where)]
    return pinned([str(generator), mode, "--json", *target, *[str(word) for word in rest]], cpu)


def run(words, seconds, on_tick=lambda: None):
    """Runs `words`, which should take `seconds`, and returns its JSON. Calls `on_tick` about four times a second."""
    deadline = time.monotonic() + seconds + SPARE_SECONDS
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          start_new_session=True) as process:
        try:
            while True:
                try:
                    output, errors = process.communicate(timeout=TICK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    on_tick()
                    if time.monotonic() > deadline:
                        raise LoadFailed(f"the generator was not done after {seconds + SPARE_SECONDS:.0f} s") from None
        except BaseException:
            process.kill()
            raise
    return judge(process.returncode, output.decode(errors="replace"), errors.decode(errors="replace"))


def judge(status, output, errors):
    """The JSON of a run that went well; LoadFailed otherwise."""
    try:
        raw = json.loads(output)
    except ValueError:
        raise LoadFailed(f"the generator ended with {how_it_ended(status)}: {last_words(errors)}") from None
    if raw.get("wrong"):
        raise LoadFailed(f"{raw['wrong']['kind']}: {raw['wrong'].get('sentence', '')}", raw)
    if not raw.get("ok"):
        raise LoadFailed(f"a connection failed: {raw.get('errors', {}).get('first', 'no reason given')}", raw)
    if status != 0:
        raise LoadFailed(f"the generator ended with {how_it_ended(status)}: {last_words(errors)}", raw)
    return raw


def figures(raw):
    """What a table needs of one traffic's run. Times in microseconds, shares of one CPU."""
    traffic, server, seconds = raw["traffic"][0], raw.get("server"), raw["seconds"]
    return {
        "rate": traffic["per_second"],
        "mb_per_second": traffic["mb_per_second"],
        "p50": traffic["latency_us"]["p50"],
        "p95": traffic["latency_us"].get("p95"),
        "p99": traffic["latency_us"]["p99"],
        "cpu_us": raw.get("server_cpu_us_per_message"),
        "switches": server["context_switches"] / traffic["verified"] if server and traffic.get("verified") else None,
        "busy": server["cpu_seconds"] / seconds if server and seconds else None,
        "generator_busy": raw["generator"]["cpu_seconds"] / seconds if seconds else None,
        "limit": raw["bottleneck"],
        "disturbed": raw["disturbed"],
        "late": raw.get("late", False),
        "answered": traffic["verified_all"],
    }
