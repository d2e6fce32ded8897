"""The LLM provider as a Dagster resource: who is asked, with which key, and how much at once and in a minute.

Several accounts or regions of one model are `endpoints` of it: each is this resource with some settings of its own.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import dagster as dg
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.core.pooling import Capacity, capacity, first_mistake
from elspeth_dagster.core.settings import DEFAULT_CONCURRENCY, LARGEST_LIMIT, check_concurrency
from elspeth_dagster.core.spec import EndpointList, EndpointSpec, FromEnvironment

if TYPE_CHECKING:
    from elspeth_dagster.llm.wire import Wire

NOT_OF_THE_WIRE = {
    "max_concurrency",
    "min_concurrency",
    "requests_per_minute",
    "tokens_per_minute",
    "grace_seconds",
    "fingerprint_key",
    "endpoints",
}
ADDRESSES = ("base_url", "azure_endpoint")
CREDENTIALS: dict[str, Any] = {"api_key": None, "azure_ad_token_provider": None, "organization": None, "headers": {}}
"""What is never sent to another address than it was given for."""
NOT_OF_THE_RESOURCE = {"name", "weight", "price"}


class PoolMember(NamedTuple):
    """One endpoint of several: its declaration, and the resource with its settings."""

    declared: EndpointSpec
    llm: "LLMResource"


class LLMResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """An LLM provider. The model belongs to the assessment, the account and its limits belong here."""

    model_config = ConfigDict(hide_input_in_errors=True)  # there are secrets among them

    provider: Literal["openai", "azure", "local"] = Field(
        description="openai (or a compatible service with a key), azure, or local (a compatible server without a key)."
    )
    api_key: str | None = Field(
        default=None,
        description="The key, by EnvVar. On record there is only its fingerprint.",
        json_schema_extra={"dagster__is_secret": True},
    )
    base_url: str | None = Field(default=None, description="Address of a compatible service, with its /v1.")
    azure_endpoint: str | None = Field(default=None, description="https://<resource>.openai.azure.com")
    azure_deployment: str | None = Field(
        default=None, description="The deployment to ask, where it isn't called as the assessment's model_name."
    )
    azure_ad_token_provider: str | None = Field(
        default=None,
        description="Instead of a key: package.module:function, a function without arguments that returns an Entra ID "
        "token, such as what azure.identity.get_bearer_token_provider returns.",
    )
    api_version: str | None = Field(default=None, description="Azure's API version, such as 2024-10-21.")
    organization: str | None = Field(default=None, description="OpenAI organization to bill.")
    headers: dict[str, str] = Field(default={}, description="Further headers of every request.")
    ca_file: str | None = Field(
        default=None, description="A PEM file of certificate authorities that are trusted besides the system's."
    )
    timeout_seconds: float = Field(default=120, gt=0, description="How long one request may take.")
    max_concurrency: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="How many requests of a step are in flight at most: below that, as many as the provider takes "
        "without refusing. Default 64; for local 1.",
    )
    min_concurrency: int = Field(
        default=1, ge=1, le=1000, description="How many are in flight at least, whatever the provider refuses."
    )
    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=LARGEST_LIMIT,
        description="How many requests a minute are sent to a model of this account, by all who share the landscape.",
    )
    tokens_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=LARGEST_LIMIT,
        description="How many prompt and completion tokens a minute are used of a model of this account, by all who "
        "share the landscape.",
    )
    grace_seconds: float = Field(
        default=30,
        ge=0,
        le=600,
        description="How long a step that is told to stop waits for the requests that are in flight. It sends no new "
        "ones; what has not come by then counts as unknown.",
    )
    fingerprint_key: str | None = Field(
        default=None,
        description="Key of the HMAC that stands for a credential on record.",
        json_schema_extra={"dagster__is_secret": True},
    )
    endpoints: list[dict[str, Any]] | None = Field(
        default=None,
        description="Several accounts or regions of the model, asked as one: each with a name, its settings where they "
        "are others than these, a weight, limits of its own; keys by {env: NAME}. An assessment's own go before them.",
    )

    @field_validator("endpoints")
    @classmethod
    def _check_endpoints(cls, value: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        if value is None:
            return None
        try:
            checked = EndpointList.model_validate([_named(one) for one in value])
        except ValidationError as error:
            raise ValueError(first_mistake(error)) from None
        return [one.model_dump(mode="json", exclude_none=True) for one in checked.root]

    @model_validator(mode="after")
    def _check_concurrency(self) -> Self:
        try:
            check_concurrency(self.min_concurrency, self.concurrency, "min_concurrency", "max_concurrency")
        except SettingsError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def concurrency(self) -> int:
        """How many requests of a step are in flight at most."""
        return DEFAULT_CONCURRENCY[self.provider] if self.max_concurrency is None else self.max_concurrency

    def endpoints_for(self, declared: Sequence[EndpointSpec] | None) -> list[EndpointSpec]:
        """The endpoints to ask: those that an assessment declares, else the deployment's; none without a pool."""
        if declared or not self.endpoints:
            return list(declared or ())
        return EndpointList.model_validate([_named(one) for one in self.endpoints]).root

    def capacity(self, declared: Sequence[EndpointSpec] | None = None) -> Capacity:
        """What is in flight at most and may be sent in a minute, at all endpoints together."""
        alone = Capacity(self.concurrency, self.requests_per_minute, self.tokens_per_minute)
        return capacity(self.endpoints_for(declared), alone)

    def members(self, declared: Sequence[EndpointSpec] | None) -> list[PoolMember]:
        """The endpoints to ask, each with its settings; none where it is asked alone.

        Raises SettingsError, which names endpoint and key, for a variable that is not set and bounds that don't fit.
        """
        return [PoolMember(one, self._as(one)) for one in self.endpoints_for(declared)]

    def _as(self, endpoint: EndpointSpec) -> "LLMResource":
        given = endpoint.model_dump(exclude_none=True, exclude=NOT_OF_THE_RESOURCE)
        given = {key: _valued(value, f"llm.endpoints.{endpoint.name}.{key}") for key, value in given.items()}
        is_elsewhere = any(key in given for key in ADDRESSES)
        ours = self.model_dump(exclude={"endpoints"})
        try:
            return LLMResource(**{**ours, **(CREDENTIALS if is_elsewhere else {}), **given})
        except ValidationError as error:
            raise SettingsError(f"llm.endpoints.{endpoint.name}: {first_mistake(error)}") from None

    def wire(self, model: str, endpoint: EndpointSpec | None = None) -> "Wire":
        """The connection to this provider for one model, as this endpoint; enter it to use it."""
        # Here, because definitions are loaded far more often than questions are asked, and openai is slow to import.
        from elspeth_dagster.llm.providers import ProviderSettings
        from elspeth_dagster.llm.wire import Wire

        settings = ProviderSettings(**self.model_dump(exclude=NOT_OF_THE_WIRE), endpoint=on_record(endpoint))
        key = {} if self.fingerprint_key is None else {"fingerprint_key": self.fingerprint_key.encode()}
        return Wire(settings, model, max_concurrency=self.concurrency, **key)


def on_record(endpoint: EndpointSpec | None) -> dict[str, Any]:
    """What the head of each call says of the endpoint."""
    if endpoint is None:
        return {}
    price = {} if endpoint.price is None else {"price": endpoint.price.model_dump(exclude_none=True)}
    return {"endpoint": endpoint.name, **price}


def _named(value: Any) -> Any:
    """What Python code gives as an EnvVar, by its name."""
    if isinstance(value, dg.EnvVar):
        return {"env": value.env_var_name}
    return {key: _named(part) for key, part in value.items()} if isinstance(value, Mapping) else value


def _valued(value: Any, where: str) -> Any:
    """A value, or each of several, with what the environment has for it."""
    if isinstance(value, dict) and list(value) == ["env"]:
        found = dg.EnvVar(FromEnvironment(**value).env).get_value()
        if not found:
            raise SettingsError(f"{where}: the environment variable {value['env']} is not set")
        return found
    if isinstance(value, dict):
        return {key: _valued(part, f"{where}.{key}") for key, part in value.items()}
    return value
