"""The soak: launches are killed at every point of the walk, again and again, and what is left must be right.

    a slice ─► launch ✗ ─► launch ✗ ─► … ─► launch ✓ ─► record, server and tables are compared ─► the next slice

Everything is real: Dagster, the landscape, the sockets, SIGKILL. A launch is a process of its own, forked from one that
has imported everything (`zygote`). It kills itself at a named point (`failpoints`), or is killed from outside at any
moment. After each commit that it was told of it leaves a note (`acknowledging`). The provider writes down every
request. So there are three witnesses who don't know of each other, and the figures (`checking`) are what they disagree
on. Since a figure that can't be wrong says nothing, `breaking` has variants of the package with a fault each, of which
every one must turn a figure red.

    python -m elspeth_dagster_tests.soak --database sqlite --kills 200 --seed 1
"""
