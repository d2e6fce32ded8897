"""A deployment's pool: a file that names several accounts or regions of one model, which are asked as one.

    - {name: sweden, azure_endpoint: https://…, api_key: {env: AZURE_KEY_SWEDEN}, weight: 2, requests_per_minute: 600}
    - {name: france, azure_endpoint: https://…, api_key: {env: AZURE_KEY_FRANCE}}

An assessment that names endpoints itself goes before it. What an endpoint doesn't say is as the deployment has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import ValidationError

from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.core.spec import EndpointList, EndpointSpec, PriceSpec


class Capacity(NamedTuple):
    """How many requests are in flight at most, and how much may be sent in a minute; None: no limit of ours."""

    max_concurrency: int
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


def endpoints_in(path: str | None) -> list[EndpointSpec]:
    """The endpoints that a file names; none without a file. Raises SettingsError when it can't be read."""
    if path is None:
        return []
    try:
        return EndpointList.model_validate(yaml.safe_load(Path(path).read_text("utf-8"))).root
    except ValidationError as error:
        raise SettingsError(f"ELSPETH_ENDPOINTS: {path}, {first_mistake(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"ELSPETH_ENDPOINTS: {path} can't be read: {' '.join(str(error).split())}") from None
    except yaml.YAMLError:  # what it says repeats the text, which may hold a key
        raise SettingsError(f"ELSPETH_ENDPOINTS: {path} is no YAML") from None


def first_mistake(error: ValidationError) -> str:
    """The first mistake by its key, without the value, which may be a secret."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]") or "the whole"
    said = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    return f"{where}: {said.rstrip('.')}."


def capacity(endpoints: Sequence[EndpointSpec], alone: Capacity) -> Capacity:
    """What a pool bears altogether; `alone` is what one bears that doesn't say, or what is asked without a pool."""
    if not endpoints:
        return alone
    parts = [
        Capacity(*(getattr(one, name) if getattr(one, name) is not None else getattr(alone, name) for name in NAMES))
        for one in endpoints
    ]
    requests, tokens = ([getattr(part, name) for part in parts] for name in NAMES[1:])
    return Capacity(
        sum(part.max_concurrency for part in parts),
        None if None in requests else sum(requests),
        None if None in tokens else sum(tokens),
    )


def check_accounts(accounts: Mapping[str, str]) -> None:
    """Raise SettingsError where two endpoints, by name, are one account at one address: limits would be shared."""
    known: dict[str, str] = {}
    for name, account in accounts.items():
        if (other := known.setdefault(account, name)) != name:
            raise SettingsError(
                f"llm.endpoints: {other} and {name} are the same account at the same address. Take one out, or give it "
                "the address or key that it should have"
            )


NAMES = Capacity._fields


def prices(endpoints: Sequence[EndpointSpec], price: PriceSpec | None) -> list[tuple[PriceSpec | None, float]]:
    """The prices at which a pool is asked, each with its part of the load; `price` is the assessment's own."""
    total = sum(one.weight for one in endpoints)
    return [(one.price or price, one.weight / total) for one in endpoints] or [(price, 1.0)]
