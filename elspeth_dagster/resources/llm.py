"""The LLM provider as a Dagster resource: who is asked, with which key, and how much at once and in a minute."""

from typing import TYPE_CHECKING, Literal, Self

import dagster as dg
from pydantic import Field, model_validator

from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.core.settings import DEFAULT_CONCURRENCY, LARGEST_LIMIT, check_concurrency

if TYPE_CHECKING:
    from elspeth_dagster.llm.wire import Wire

NOT_OF_THE_WIRE = {
    "max_concurrency",
    "min_concurrency",
    "requests_per_minute",
    "tokens_per_minute",
    "grace_seconds",
    "fingerprint_key",
}


class LLMResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """An LLM provider. The model belongs to the assessment, the account and its limits belong here."""

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

    def wire(self, model: str) -> "Wire":
        """The connection to this provider for one model; enter it to use it."""
        # Here, because definitions are loaded far more often than questions are asked, and openai is slow to import.
        from elspeth_dagster.llm.providers import ProviderSettings
        from elspeth_dagster.llm.wire import Wire

        settings = ProviderSettings(**self.model_dump(exclude=NOT_OF_THE_WIRE))
        key = {} if self.fingerprint_key is None else {"fingerprint_key": self.fingerprint_key.encode()}
        return Wire(settings, model, max_concurrency=self.concurrency, **key)
