"""Several hosts on one machine: network namespaces with names, DAGSTER_HOMEs and links of their own.

What they share they reach over their links alone: a real Redis, a real PostgreSQL, the provider, and a folder that
stands for a share. A host dies by kill -9 of all its processes; a link is cut by taking it down; a clock is set by
libfaketime.
"""
