"""A deployment's own prices: a file that says what models and deployments cost where no list price holds.

    gpt-4o-eu: {input_mtok: 2.75, output_mtok: 11}      # by the `model_name` that assessments give

The price becomes part of the assessment's configuration, so that the record says by which price a call was counted.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.core.spec import AssessmentSpec, PriceList


def with_deployment_price(spec: AssessmentSpec, prices_path: str | None) -> AssessmentSpec:
    """The spec with the deployment's price for its model, where it declares none itself.

    Raises SettingsError when the price list can't be read.
    """
    if prices_path is None:
        return spec
    price = _price_list(Path(prices_path)).root.get(spec.llm.model_name)
    if spec.llm.price is not None or price is None:
        return spec
    return spec.model_copy(update={"llm": spec.llm.model_copy(update={"price": price})})


def _price_list(path: Path) -> PriceList:
    try:
        return PriceList.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise SettingsError(f"ELSPETH_PRICES: {path}, {where}: {first['msg']}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"ELSPETH_PRICES: {path} can't be read: {' '.join(str(error).split())}") from None
