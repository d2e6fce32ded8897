"""The LLM provider as a Dagster resource: who is asked, with which key, and how many requests at once."""

from typing import TYPE_CHECKING, Literal

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from elspeth_dagster.llm.wire import Wire


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
    max_concurrency: int = Field(default=8, ge=1, le=1000, description="How many requests of a step are in flight.")
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

    def wire(self, model: str) -> "Wire":
        """The connection to this provider for one model; enter it to use it."""
        # Here, because definitions are loaded far more often than questions are asked, and openai is slow to import.
        from elspeth_dagster.llm.providers import ProviderSettings
        from elspeth_dagster.llm.wire import Wire

        settings = ProviderSettings(**self.model_dump(exclude={"max_concurrency", "grace_seconds", "fingerprint_key"}))
        key = {} if self.fingerprint_key is None else {"fingerprint_key": self.fingerprint_key.encode()}
        return Wire(settings, model, max_concurrency=self.max_concurrency, **key)
