"""The dictionary that compressed payloads begin with is in the record itself, as a payload: nothing else is needed to
read them."""

import sqlalchemy as sa
from alembic import op

from elspeth_dagster.core.canonical import sha256
from elspeth_dagster.landscape.compressing import COMMON

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    payload = sa.table("payloads", *(sa.column(name) for name in ("ref", "size", "encoding", "body")))
    ref = bytes.fromhex(sha256(COMMON).removeprefix("sha256:"))
    op.execute(payload.insert().values(ref=ref, size=len(COMMON), encoding="identity", body=COMMON))
