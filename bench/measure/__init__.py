"""What a comparison of servers is made of. Python 3.11 and nothing but its standard library.

    servers.py      starts a fresh, pinned server, and stops it for its counters
    load.py         runs build/load against it, or says in one sentence why there is no rate
    idle.py         holds connections that say nothing, and weighs them
    page_cache.py   brings files into the page cache, or out of it, and counts what is there
    fio.py          what a bare reader gets out of the same file
    machine.py      which machine this is, and which of its CPUs are used
    stats.py        medians, intervals, verdicts; pure functions
    table.py        numbers as text; pure functions
    record.py       the raw data, valid at every moment, and the line that shows how far it is

bench/file_servers.py and bench/echo_servers.py tell the stories that use them.
"""
