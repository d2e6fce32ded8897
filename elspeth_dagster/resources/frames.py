"""What a pandas DataFrame is to Dagster, without importing pandas before there is one.

Definitions are loaded far more often than DataFrames, and pandas is slow to import.
"""

from typing import Any

import dagster as dg


class _Frame(dg.DagsterType):
    @property
    def typing_type(self) -> Any:
        """The class, by which IO managers choose how to load one."""
        import pandas as pd

        return pd.DataFrame


def _is_frame(_context: dg.TypeCheckContext, value: object) -> dg.TypeCheck:
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        return dg.TypeCheck(True)
    return dg.TypeCheck(False, description=f"A pandas DataFrame is needed, and this is a {type(value).__name__}.")


FRAME = _Frame(type_check_fn=_is_frame, name="DataFrame", description="A pandas DataFrame.")
